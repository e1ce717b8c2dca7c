// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netns is the only place of meshnetd that enters a network namespace. A namespace is known by
// device and inode, never by its path, and the host's is refused.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/recovered"
)

// ID tells one namespace from every other that exists at the same time.
type ID struct {
	Dev, Ino uint64
}

// String returns the inode, which is how ip and lsns name a namespace.
func (id ID) String() string { return fmt.Sprintf("net:[%d]", id.Ino) }

var (
	// ErrHost is returned for the host's namespace, whatever path leads to it.
	ErrHost = errors.New("is the host's network namespace, which meshnetd never touches")
	// ErrGone is returned for a path that does not exist any more.
	ErrGone = errors.New("does not exist: the sandbox is gone, or the directory is not mounted into meshnetd's container")
	// ErrNotNetNS is returned for a file that is no network namespace.
	ErrNotNetNS = errors.New("is not a network namespace")
)

// The inodes that the kernel gives to a machine's first namespaces; that of the network namespace is fixed only since
// Linux 6.18.
const (
	firstPIDNamespace     = 0xeffffffc
	firstNetworkNamespace = 0xeffffff9
)

// Host returns the identities of the host's network namespace: the one this process was started in, that
// of the init process where procfs shows it, and that at path where it is not "". In a container neither
// of the first two need be the host's; Host fails where nothing proves that one of the three is.
func Host(path string) ([]ID, error) {
	// Not /proc/self, which is the first thread's: any thread that runs ordinary goroutines is in its own namespace.
	self, err := identify("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("cannot tell the host's network namespace: %w", err)
	}
	ids := []ID{self}
	if init, err := identify("/proc/1/ns/net"); err == nil && init != self {
		ids = append(ids, init)
	}
	if path != "" {
		stated, err := Open(path, nil)
		if err != nil {
			return nil, fmt.Errorf("host_netns: %w", err)
		}
		defer stated.Close()
		return append(ids, stated.id), nil
	}
	processes, err := identify("/proc/thread-self/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("cannot tell whether this is a container: %w", err)
	}
	if processes.Ino != firstPIDNamespace && self.Ino != firstNetworkNamespace {
		return nil, errors.New("cannot tell the host's network namespace from within this container: share the host's PID " +
			"namespace, or set host_netns in the configuration to a path such as /host/proc/1/ns/net")
	}
	return ids, nil
}

func identify(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// Gone reports whether a path no longer leads to the namespace that it led to; the zero ID is one that was never looked
// at.
func Gone(path string, was ID) bool {
	now, err := identify(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) // any other error shows nothing
	}
	return was != (ID{}) && now != was
}

// Namespace is an open network namespace that is not the host's. It stays the same one whatever happens
// to the path it was opened by.
type Namespace struct {
	handle   netns.NsHandle
	id       ID
	path     string
	ownUsers bool         // see OwnUsers
	inside   atomic.Int64 // the thread that is in it, by Do; 0 is none
}

// Open opens the namespace at path. It fails with ErrGone, ErrNotNetNS or, for one of host, ErrHost.
func Open(path string, host []ID) (*Namespace, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if path == "" {
		return nil, errors.New("no path of a network namespace is given")
	}
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("network namespace %s %w", path, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	ns := &Namespace{handle: netns.NsHandle(fd), path: path}
	if err := ns.check(host); err != nil {
		ns.Close()
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return ns, nil
}

func (n *Namespace) check(host []ID) error {
	var fst unix.Statfs_t
	if err := unix.Fstatfs(int(n.handle), &fst); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if fst.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%w but an ordinary file: without mount propagation a container sees the mount point only", ErrNotNetNS)
	}
	kind, err := unix.IoctlRetInt(int(n.handle), unix.NS_GET_NSTYPE)
	if err != nil {
		return fmt.Errorf("NS_GET_NSTYPE: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%w but one of another type (%#x)", ErrNotNetNS, kind)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(n.handle), &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	n.id = ID{Dev: st.Dev, Ino: st.Ino}
	if slices.Contains(host, n.id) {
		return ErrHost
	}
	users, err := n.Users()
	if err != nil {
		return err
	}
	mine, err := home()
	n.ownUsers = users != mine
	return err
}

// New makes a network namespace that nothing else knows of; it ends with Close.
func New() (*Namespace, error) {
	ns := &Namespace{handle: netns.None(), path: "a new network namespace"}
	err := onThread(func() (bool, error) {
		return roundTrip(func() (err error) {
			ns.handle, err = netns.New()
			return err
		}, nothing)
	})
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w (CAP_SYS_ADMIN is needed)", err)
	}
	if err := ns.check(nil); err != nil {
		ns.Close()
		return nil, fmt.Errorf("%s %w", ns.path, err)
	}
	return ns, nil
}

func nothing() error { return nil }

// ID returns the namespace's identity.
func (n *Namespace) ID() ID { return n.id }

// OwnUsers reports whether the namespace belongs to another user namespace than that of this process: one of
// the pod (hostUsers: false).
func (n *Namespace) OwnUsers() bool { return n.ownUsers }

// Users returns the identity of the user namespace that the namespace belongs to.
func (n *Namespace) Users() (ID, error) {
	fd, err := unix.IoctlRetInt(int(n.handle), unix.NS_GET_USERNS)
	if err != nil {
		return ID{}, fmt.Errorf("NS_GET_USERNS: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, fmt.Errorf("fstat of the user namespace: %w", err)
	}
	return ID{Dev: st.Dev, Ino: st.Ino}, nil
}

// home is the user namespace of this process, which it cannot leave: it has several threads.
var home = sync.OnceValues(func() (ID, error) { return identify("/proc/thread-self/ns/user") })

// Path returns the path the namespace was opened by.
func (n *Namespace) Path() string { return n.path }

// Close releases the namespace.
func (n *Namespace) Close() { _ = n.handle.Close() }

// Do calls fn on a thread that is in the namespace. fn must not start goroutines that are to be there
// too. A panic in fn is returned as an error. The thread comes home afterwards, or is ended. Within fn, Do
// goes nowhere: fn's thread is there already, and nobody else runs on it.
func (n *Namespace) Do(fn func() error) error {
	if n.inside.Load() == int64(unix.Gettid()) {
		return recovered.Call(fn)
	}
	return onThread(func() (bool, error) {
		return n.visit(func() error {
			if n.inside.CompareAndSwap(0, int64(unix.Gettid())) {
				defer n.inside.Store(0)
			}
			return fn()
		})
	})
}

// Within is Do for work that is not begun where ctx has ended. An error says what was to be done in which namespace.
func (n *Namespace) Within(ctx context.Context, what string, fn func() error) error {
	err := ctx.Err()
	if err == nil {
		err = n.Do(fn)
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w", what, n.path, err)
	}
	return nil
}

// onThread calls fn on a thread of its own; fn says whether the thread may run other goroutines again. The
// process's first thread is not used: it cannot be ended, and /proc/self speaks for the process by it.
func onThread(fn func() (reusable bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(fn) // on another thread, since this one is taken
			runtime.UnlockOSThread()
			return
		}
		reusable, err := fn()
		if reusable {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine, so that no other goroutine runs in the wrong namespace
		done <- err
	}()
	return <-done
}

// visit enters the namespace, calls fn and comes back to the thread's own.
func (n *Namespace) visit(fn func() error) (home bool, err error) {
	return roundTrip(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter %s: %w (CAP_SYS_ADMIN is needed)", n.path, err)
		}
		return nil
	}, fn)
}

// roundTrip goes to another namespace, calls fn there and comes back; home is false where it could not.
func roundTrip(leave, fn func() error) (home bool, err error) {
	origin, err := netns.Get()
	if err != nil {
		return true, fmt.Errorf("own network namespace: %w", err)
	}
	defer func() { _ = origin.Close() }()
	if err := leave(); err != nil {
		return true, err
	}
	err = recovered.Call(fn)
	if back := netns.Set(origin); back != nil {
		return false, errors.Join(err, fmt.Errorf("go home from another network namespace: %w", back))
	}
	return true, err
}
