// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func makeLocks(t *testing.T) *Locks {
	t.Helper()
	nstest.Require(t)
	l, err := MakeLocks(filepath.Join(t.TempDir(), "locks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func lockedBy(t *testing.T, l *Locks, ns *Namespace) (unlock func()) {
	t.Helper()
	unlock, err := l.Lock(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func TestLockExcludes(t *testing.T) {
	locks, ns, another := makeLocks(t), openNew(t), openNew(t)
	for another.signatureAt() == ns.signatureAt() { // one in 64 would write its holder over the other's
		another = openNew(t)
	}
	unlock := lockedBy(t, locks, ns)
	defer lockedBy(t, locks, another)() // which has a lock of its own
	again, err := OpenLocks(locks.path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	_, err = again.Lock(t.Context(), ns)
	who := fmt.Sprintf("process %d of pid:[", os.Getpid())
	if !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), ns.Path()) || !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), " since 20") {
		t.Fatalf("got %v, want to be told who has it", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := again.Lock(ctx, ns); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrHeld) {
		t.Fatalf("got %v, want not to wait", err)
	}
	unlock()
	lockedBy(t, again, ns)()
}

// Whoever waits has the lock when it is released.
func TestLockIsWaitedFor(t *testing.T) {
	locks, ns := makeLocks(t), openNew(t)
	unlock := lockedBy(t, locks, ns)
	done := make(chan error)
	go func() {
		next, err := locks.Lock(t.Context(), ns)
		if err == nil {
			next()
		}
		done <- err
	}()
	unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A name that was not taken back is not told of the next holder, and the file does not grow.
func TestSignatures(t *testing.T) {
	locks := makeLocks(t)
	for _, ino := range []uint64{1, 1 + signatures, 1<<63 + 5} {
		ns := &Namespace{id: ID{Ino: ino}, path: "/p"}
		unlock := lockedBy(t, locks, ns)
		_, err := locks.Lock(canceled(t), ns)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Errorf("got %v", err)
		}
		unlock()
	}
	text, err := os.ReadFile(filepath.Join(locks.path, namespacesFile))
	if err != nil || len(text) > signatures*signatureLength || strings.Contains(string(text), "process") {
		t.Errorf("%v, left behind: %q", err, text)
	}
	fd, err := locks.open(namespacesFile, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if taken, err := take(fd, 1); err != nil || !taken {
		t.Fatal(taken, err)
	}
	if _, err := locks.Lock(canceled(t), &Namespace{id: ID{Ino: 1}}); err == nil || !strings.Contains(err.Error(), "another meshnetd") {
		t.Errorf("got %v of somebody without a name", err)
	}
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// The end of a process is the end of its locks, however it ends.
func TestLocksEndWithTheirProcess(t *testing.T) {
	const env = "MESHNETD_TEST_LOCKS"
	if dir := os.Getenv(env); dir != "" {
		locks, err := OpenLocks(dir)
		if err != nil {
			t.Fatal(err)
		}
		lockedBy(t, locks, &Namespace{id: ID{Ino: 7}})
		if _, err := locks.Announce(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("locked")
		select {}
	}
	locks := makeLocks(t)
	if _, err := locks.Announce(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"="+locks.path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatal(err)
	}
	ns := &Namespace{id: ID{Ino: 7}}
	if _, err := locks.Lock(canceled(t), ns); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("got %v, want the process that holds it", err)
	}
	if !locks.OtherDaemons() {
		t.Error("the other one is not seen")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	lockedBy(t, locks, ns)()
	if locks.OtherDaemons() {
		t.Error("a process that is gone is seen")
	}
}

func TestDaemonsSeeEachOther(t *testing.T) {
	locks := makeLocks(t)
	if locks.OtherDaemons() {
		t.Error("somebody is there before anybody")
	}
	var leave [4]func()
	for i := range leave {
		var err error
		if leave[i], err = locks.Announce(); err != nil {
			t.Fatal(err)
		}
		if got := locks.OtherDaemons(); got != (i > 0) {
			t.Errorf("%d of them: %v", i+1, got)
		}
	}
	for i := range leave {
		leave[i]()
		if got := locks.OtherDaemons(); got != (i < 2) {
			t.Errorf("%d left: %v", i+1, got)
		}
	}
}

func TestDirectoryOfLocks(t *testing.T) {
	nstest.Require(t)
	const nobody = 65534
	do := func(t *testing.T, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, parent, path string)
		want    string // "" is that it works
	}{
		"missing":               {func(*testing.T, string, string) {}, ""},
		"there":                 {func(t *testing.T, _, path string) { do(t, os.Mkdir(path, 0o700)) }, ""},
		"to be looked at":       {func(t *testing.T, _, path string) { do(t, os.Mkdir(path, 0o755), os.Chmod(path, 0o755)) }, ""},
		"in a directory of all": {func(t *testing.T, parent, _ string) { do(t, os.Chmod(parent, 0o777|os.ModeSticky)) }, ""},
		"made by somebody":      {func(t *testing.T, _, path string) { do(t, os.Mkdir(path, 0o700), os.Chown(path, nobody, nobody)) }, "belongs to uid 65534 instead of 0"},
		"written by others":     {func(t *testing.T, _, path string) { do(t, os.Mkdir(path, 0o770), os.Chmod(path, 0o770)) }, "others than its owner can write there (mode 0770)"},
		"a file":                {func(t *testing.T, _, path string) { do(t, os.WriteFile(path, nil, 0o600)) }, "is a file or a link"},
		"a link": {func(t *testing.T, parent, path string) {
			do(t, os.Mkdir(filepath.Join(parent, "other"), 0o700), os.Symlink("other", path))
		}, "is a file or a link"},
		"a link to nothing":     {func(t *testing.T, _, path string) { do(t, os.Symlink("other", path)) }, "is a file or a link"},
		"parent of somebody":    {func(t *testing.T, parent, _ string) { do(t, os.Chown(parent, nobody, nobody)) }, "put another one in its place"},
		"parent that all write": {func(t *testing.T, parent, _ string) { do(t, os.Chmod(parent, 0o777)) }, "put another one in its place"},
		"no parent":             {func(t *testing.T, parent, _ string) { do(t, os.Remove(parent)) }, "make it for root alone (mkdir -m 0700"},
	} {
		t.Run(name, func(t *testing.T) {
			parent := filepath.Join(t.TempDir(), "run")
			do(t, os.Mkdir(parent, 0o755))
			path := filepath.Join(parent, "locks")
			tt.prepare(t, parent, path)
			l, err := MakeLocks(path)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Stat(path)
			if err != nil || info.Mode() != os.ModeDir|0o700 {
				t.Errorf("%v, and it is %s", err, info.Mode())
			}
		})
	}
}

// Somebody without rights on the node, who may write wherever everybody may, cannot keep a daemon waiting.
func TestLocksAreOutOfReach(t *testing.T) {
	locks, ns := makeLocks(t), openNew(t)
	lockedBy(t, locks, ns)()
	const attack = `
		cd / # where nobody has to have been before
		flock --nonblock "$1/namespaces" true && echo "can lock the file"
		exec 2>/dev/null
		true <"$1/namespaces" && echo "can open the file"
		ls "$1" && echo "can list"
		true >"$1/another" && echo "can make a file"
		mv "$1" "$1.old" && echo "can move it"
		rm -r "$1" && echo "can remove it"
		exit 0`
	cmd := exec.Command("sh", "-c", attack, "sh", locks.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// The names that locks were once.
	var bound []int
	defer func() {
		for _, fd := range bound {
			_ = unix.Close(fd)
		}
	}()
	for _, name := range []string{fmt.Sprintf("@meshnetd/%d:%d", ns.id.Dev, ns.id.Ino), "@meshnetd/daemon/x", "@meshnetd/daemon/y"} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			bound = append(bound, fd)
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := locks.Lock(canceled(t), ns)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if locks.OtherDaemons() {
		t.Error("a name is taken for a daemon")
	}
}
