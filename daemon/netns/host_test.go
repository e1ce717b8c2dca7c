// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

const containerEnv = "MESHNETD_TEST_HOST_NETNS"

// In a container that shares nothing with the host, nothing proves what the host's namespace is: there it
// has to be stated, and is then refused by whatever path.
func TestHostFromWithinAContainer(t *testing.T) {
	if stated := os.Getenv(containerEnv); stated != "" {
		inContainer(t, stated)
		return
	}
	nstest.Require(t, "unshare")
	bound := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(bound, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(bound, unix.MNT_DETACH) })
	cmd := exec.Command("unshare", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "slave",
		os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), containerEnv+"="+bound)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func inContainer(t *testing.T, bound string) {
	if ids, err := Host(""); err == nil || !strings.Contains(err.Error(), "host_netns") {
		t.Errorf("got %v %v, want to be told to state the host's namespace", ids, err)
	}
	host, err := Host(bound)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := identify(bound); err != nil || !slices.Contains(host, want) {
		t.Errorf("%v does not hold the stated %v", host, want)
	}
	if _, err := Open(bound, host); !errors.Is(err, ErrHost) {
		t.Errorf("got %v, want the host refused", err)
	}
	if _, err := Host("/dev/null"); !errors.Is(err, ErrNotNetNS) {
		t.Errorf("got %v, want a file refused", err)
	}
}

// A process in the pod can lock the file of its namespace. That must not keep us out.
func TestLockIsNotThePodsToHold(t *testing.T) {
	ns := openNew(t)
	file, err := os.Open(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	unlock, err := makeLocks(t).Lock(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
