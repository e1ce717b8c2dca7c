// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Isolated is a thread that starts programs inside network namespaces. It has a mount namespace of its
// own in which /etc/nsswitch.conf is empty: iptables looks up even numeric owners by name, which on hosts
// with a directory service takes half a minute in a network that is not there yet.
type Isolated struct {
	jobs   chan job
	closed chan struct{}
	once   sync.Once
}

type job struct {
	ns   *Namespace
	fn   func() error
	done chan error
}

// Isolate prepares the thread. It needs CAP_SYS_ADMIN.
func Isolate() (*Isolated, error) {
	iso := &Isolated{jobs: make(chan job), closed: make(chan struct{})}
	if err := iso.start(); err != nil {
		return nil, err
	}
	return iso, nil
}

// Close ends the thread. A Do that runs meanwhile is finished first; later ones fail.
func (iso *Isolated) Close() { iso.once.Do(func() { close(iso.closed) }) }

// Do calls fn on the thread, inside the namespace. fn should only start programs: exec.Cmd.Start must
// be called there, its Wait need not. A panic in fn is returned as an error. Waiting for the thread ends
// with ctx.
func (iso *Isolated) Do(ctx context.Context, ns *Namespace, fn func() error) error {
	j := job{ns: ns, fn: fn, done: make(chan error, 1)}
	select {
	case iso.jobs <- j:
		return <-j.done
	case <-ctx.Done():
		return fmt.Errorf("wait for the thread that starts programs: %w", ctx.Err())
	case <-iso.closed:
		return errors.New("the isolated thread has been closed")
	}
}

func (iso *Isolated) start() error {
	ready := make(chan error, 1)
	go func() {
		_ = onThread(func() (reusable bool, err error) {
			err = emptyNameServiceSwitch()
			ready <- err
			if err == nil {
				iso.serve()
			}
			return false, nil // the mount namespace is never undone
		})
	}()
	return <-ready
}

// serve runs jobs until Close. Where a job leaves the thread in a foreign namespace, another thread
// takes over and this one ends.
func (iso *Isolated) serve() {
	for {
		select {
		case <-iso.closed:
			return
		case j := <-iso.jobs:
			home, err := j.ns.visit(j.fn)
			if !home {
				if startErr := iso.start(); startErr != nil {
					err = errors.Join(err, startErr)
					iso.Close()
				}
			}
			j.done <- err
			if !home {
				return
			}
		}
	}
}

// emptyNameServiceSwitch gives the calling thread a mount namespace whose changes nobody else sees, while
// unmounts of the host still reach it, so that it keeps no dead sandbox's mounts.
func emptyNameServiceSwitch() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace for iptables: %w (CAP_SYS_ADMIN is needed)", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach the mount namespace for iptables: %w", err)
	}
	const file = "/etc/nsswitch.conf"
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unix.Mount("/dev/null", file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("empty %s for iptables: %w", file, err)
	}
	return nil
}
