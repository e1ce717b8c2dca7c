// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// presence begins the names of the abstract sockets by which daemons of one network namespace see each other.
const presence = "@meshnetd/daemon/"

// Announce tells other meshnetd daemons that this one runs, until the returned function is called or the
// process ends.
func Announce() (leave func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: presence + rand.Text()}); err == nil {
			return func() { _ = unix.Close(fd) }, nil
		}
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("announce this daemon to others: %w", err)
}

// Others tells whether more than one daemon is announced here. What cannot be read shows none.
func Others() bool {
	sockets, err := os.ReadFile("/proc/thread-self/net/unix")
	return err == nil && bytes.Count(sockets, []byte(" "+presence)) > 1
}
