// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// NewUsers makes a namespace that belongs to a user namespace of its own, as that of a pod with hostUsers:
// false, whose ids begin at 10000 outside.
func NewUsers(t testing.TB) *Namespace {
	t.Helper()
	Require(t, "unshare")
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 10000, Size: 50000}}
	// By a program that has its ids: the files of a namespace that is made before are nobody's.
	holder := exec.Command("unshare", "--net", "cat") // until its input ends
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping,
		Credential: &syscall.Credential{}, Pdeathsig: syscall.SIGKILL}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("a namespace with users of its own: %v", err)
	}
	_, err = io.WriteString(input, "?")
	if err == nil {
		_, err = io.ReadFull(output, make([]byte, 1))
	}
	file, openErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid))
	_ = input.Close()
	_ = holder.Wait()
	if err := errors.Join(err, openErr); err != nil {
		t.Fatalf("a namespace with users of its own: %v", err)
	}
	t.Cleanup(func() { _ = file.Close() })
	ns := &Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file: file}
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}
