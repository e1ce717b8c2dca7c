// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

const sandboxEnv = "MESHNETD_TEST_POD"

// A pod outside the mesh is answered without a system call. The test runs itself again and lets the kernel
// kill it at the first one; a pod of the mesh, which does need some, shows that the kernel would.
func TestNoSystemCallForAPodOutsideTheMesh(t *testing.T) {
	switch os.Getenv(sandboxEnv) {
	case "outside":
		withoutSystemCalls(t, rules.Pod{Namespace: "default", Name: "plain", NetNS: "/run/netns/x",
			Labels: map[string]string{"app": "plain"}, Annotations: map[string]string{"a": "b"}})
		return
	case "meshed":
		withoutSystemCalls(t, meshed("/run/netns/x"))
		return
	}
	for name, killed := range map[string]bool{"outside": false, "meshed": true} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		// The child ends without cleaning up: its temporary files go to a directory of this process.
		cmd.Env = append(os.Environ(), sandboxEnv+"="+name, "GOGC=off", "GORACE=atexit_sleep_ms=0", "TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		bySIGSYS := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGSYS
		if bySIGSYS != killed || (!killed && err != nil) {
			t.Errorf("pod %s: %v, want killed: %v\n%s", name, err, killed, out)
		}
	}
}

// withoutSystemCalls takes the pod through the flow in a process that may make none but those of Go's own
// scheduler and memory, then ends it.
func withoutSystemCalls(t *testing.T, pod rules.Pod) {
	e, _ := newEnforcer(t, firewall{})
	e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{istios, consuls, kumas, linkerds} })
	e.visitor.Record, _ = outcome.Log(slog.New(slog.NewTextHandler(os.Stderr, nil)), func() {}) // at info level, as a node runs
	if err := forbidSystemCalls(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Skipped {
			syscall.Exit(3)
		}
		if o := e.Admit(t.Context(), pod, rules.Container{Name: "app"}); o.Result != lifecycle.Skipped {
			syscall.Exit(3)
		}
		if o := e.Validate(t.Context(), pod, rules.Container{Name: "app"}); o.Result != lifecycle.Skipped || !e.Outside(pod) {
			syscall.Exit(3)
		}
	}
	syscall.Exit(0)
}

// forbidSystemCalls puts a seccomp filter on all threads of the process.
func forbidSystemCalls() error {
	allowed := []uint32{unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_SCHED_YIELD, unix.SYS_EPOLL_PWAIT, // waiting
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MPROTECT, unix.SYS_PRCTL, // memory
		unix.SYS_CLONE, unix.SYS_CLONE3, unix.SYS_GETTID, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_EXIT, // threads
		unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGPROCMASK, unix.SYS_SIGALTSTACK, unix.SYS_GETPID, unix.SYS_TGKILL, // preemption
		unix.SYS_EXIT_GROUP}
	const nrOffset = 0
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nrOffset}}
	for i, nr := range allowed {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(allowed) - i)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread() // no_new_privs is a thread's; the filter then goes to all
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return errno
	}
	return nil
}
