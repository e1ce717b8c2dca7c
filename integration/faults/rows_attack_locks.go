// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockAttacks are what a process without rights does that runs on the node, as every container of the host's network
// and every user of the machine can.
func lockAttacks() []Row {
	return []Row{
		{Fault: "uid 65534 holds 3,500 names that were locks once, and reaches for the locks, while 4 pods start", Pods: 4, Everywhere: true, begin: holdNames, end: dropNames},
	}
}

const (
	nobody = 65534
	names  = 3500
)

// reach fails at the first thing that somebody without rights can do to the directory of locks.
const reach = `
flock --nonblock "$1/namespaces" true && exit 1
flock --nonblock "$1/daemons" true && exit 2
mkdir "$1/namespaces.d" && exit 3
mv "$1" "$1.old" && exit 4
ln -s /tmp "$1" && exit 5
exit 0`

// holdNames takes the abstract names of the namespaces that come next: abstract names are anybody's, so that it does not
// matter as whom.
func holdNames(ctx context.Context, s *stage) error {
	cmd := exec.CommandContext(ctx, "sh", "-c", reach, "sh", s.lab.LockDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("uid %d reached the locks: %w", nobody, err)
	}
	path := s.outsider.NetNS()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	for i := range uint64(names) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("hold %d names: %w", names, err)
		}
		s.later(func() { _ = unix.Close(fd) })
		name := fmt.Sprintf("@meshnetd/%d:%d", st.Dev, st.Ino-names/2+i)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil && !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("hold %s: %w", name, err)
		}
	}
	return nil
}

func dropNames(_ context.Context, s *stage) error {
	s.restore()
	return nil
}
