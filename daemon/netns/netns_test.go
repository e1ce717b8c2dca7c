// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func hostOf(t *testing.T) []ID {
	t.Helper()
	ids, err := Host("")
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func openNew(t *testing.T) *Namespace {
	t.Helper()
	ns, err := Open(nstest.New(t).Path, hostOf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	return ns
}

// here identifies the namespace of the calling thread.
func here(t *testing.T) ID {
	t.Helper()
	id, err := identify("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOpenRefuses(t *testing.T) {
	nstest.Require(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// CRI-O gives hostNetwork pods a bind mount of the host's namespace: another path, the same inode.
	bound := filepath.Join(dir, "bound")
	if err := os.WriteFile(bound, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(bound, unix.MNT_DETACH) })
	for name, tt := range map[string]struct {
		path string
		want error
	}{
		"host":              {"/proc/self/ns/net", ErrHost},
		"host by init":      {"/proc/1/ns/net", ErrHost},
		"host by bind":      {bound, ErrHost},
		"ordinary file":     {file, ErrNotNetNS},
		"device":            {"/dev/null", ErrNotNetNS},
		"directory":         {dir, ErrNotNetNS},
		"mount namespace":   {"/proc/self/ns/mnt", ErrNotNetNS},
		"vanished":          {filepath.Join(dir, "gone"), ErrGone},
		"vanished with dir": {filepath.Join(dir, "no", "gone"), ErrGone},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := Open(tt.path, hostOf(t))
			// Some machines do not show the init process's namespace, not even to root: refused as well.
			hidden := tt.path == "/proc/1/ns/net" && errors.Is(err, unix.EACCES)
			if !errors.Is(err, tt.want) && !hidden {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if ns != nil || !strings.Contains(err.Error(), tt.path) {
				t.Errorf("error does not name the path: %v", err)
			}
		})
	}
}

func TestDoIsInside(t *testing.T) {
	ns := openNew(t)
	home := here(t)
	var inside ID
	if err := ns.Do(func() error { inside = here(t); return nil }); err != nil {
		t.Fatal(err)
	}
	if inside != ns.ID() || inside == home {
		t.Errorf("fn ran in %s, want %s (home is %s)", inside, ns.ID(), home)
	}
	failure := errors.New("failure")
	if err := ns.Do(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("got %v, want the error of fn", err)
	}
}

// allThreads returns the namespaces of all threads of this process.
func allThreads(t *testing.T) map[ID]int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	found := map[ID]int{}
	for _, path := range tasks {
		if id, err := identify(path); err == nil { // a thread may end meanwhile
			found[id]++
		}
	}
	return found
}

func TestPanicBringsTheThreadHome(t *testing.T) {
	ns := openNew(t)
	err := ns.Do(func() error { panic("in the sandbox") })
	if err == nil || !strings.Contains(err.Error(), "in the sandbox") {
		t.Fatalf("got %v, want the panic", err)
	}
	if n := allThreads(t)[ns.ID()]; n > 0 {
		t.Errorf("%d threads are still in the namespace", n)
	}
}

// A thread that cannot go home must never run anything else.
func TestThreadThatCannotGoHomeEnds(t *testing.T) {
	ns := openNew(t)
	err := ns.Do(func() error {
		// Capabilities are the thread's own: without them it may not enter a namespace any more.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		return unix.Capset(&header, &none[0])
	})
	if err == nil || !strings.Contains(err.Error(), "go home") {
		t.Fatalf("got %v, want a failure to go home", err)
	}
	waitFor(t, "the thread to end", func() bool { return allThreads(t)[ns.ID()] == 0 })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		runtime.Gosched()
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNothingLeaksOver1000Rounds(t *testing.T) {
	path := nstest.New(t).Path
	host := hostOf(t)
	isolated, err := Isolate()
	if err != nil {
		t.Fatal(err)
	}
	defer isolated.Close()
	locks := makeLocks(t)
	round := func(i int) {
		ns, err := Open(path, host)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		unlock, err := locks.Lock(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		visit := func() error {
			if i%10 == 0 {
				panic("now and then")
			}
			return nil
		}
		_ = ns.Do(visit)
		_ = isolated.Do(t.Context(), ns, visit)
		scratch, err := New()
		if err != nil {
			t.Fatal(err)
		}
		scratch.Close()
	}
	for i := range 20 { // the runtime makes some threads and descriptors for good
		round(i)
	}
	fds, threads := count(t, "/proc/self/fd"), count(t, "/proc/self/task")
	for i := range 1000 {
		round(i)
	}
	if now := count(t, "/proc/self/fd"); now > fds {
		t.Errorf("%d descriptors before, %d after", fds, now)
	}
	// Threads of New end by themselves, a moment after it returns.
	waitFor(t, "threads to end", func() bool { return count(t, "/proc/self/task") <= threads+5 })
	home := here(t)
	waitFor(t, "no thread to be anywhere but at home", func() bool {
		found := allThreads(t)
		delete(found, home)
		return len(found) == 0
	})
}

// Programs that are started on the isolated thread see an empty nsswitch.conf, in the pod's network;
// nobody else does.
func TestIsolatedPrograms(t *testing.T) {
	ns := openNew(t)
	isolated, err := Isolate()
	if err != nil {
		t.Fatal(err)
	}
	defer isolated.Close()
	var out strings.Builder
	cmd := exec.Command("/bin/sh", "-c", "wc -c </etc/nsswitch.conf; readlink /proc/self/ns/net")
	cmd.Stdout = &out
	if err := isolated.Do(t.Context(), ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "0\n" + ns.ID().String() + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if info, err := os.Stat("/etc/nsswitch.conf"); err != nil || info.Mode().Type() != 0 {
		t.Errorf("the file outside has changed: %v %v", info, err)
	}
	isolated.Close()
	if err := isolated.Do(t.Context(), ns, func() error { return nil }); err == nil {
		t.Error("a closed thread still works")
	}
}
