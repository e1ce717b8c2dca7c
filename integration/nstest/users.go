// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// NewUsers makes a namespace that belongs to a user namespace of its own, as that of a pod with hostUsers:
// false, whose ids begin at 100000 outside.
func NewUsers(t testing.TB) *Namespace {
	t.Helper()
	Require(t)
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	holder := exec.Command("cat") // until its input ends
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: mapping, GidMappings: mapping, Pdeathsig: syscall.SIGKILL}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("a namespace with users of its own: %v", err)
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid))
	_ = input.Close()
	_ = holder.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	ns := &Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file: file}
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}
