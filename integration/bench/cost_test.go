// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// most is what the hook of a dual-stack pod with Istio's default rules may take, whatever the machine: system calls, and pieces
// of Go's heap. It is a little more than was counted when a figure was written here.
var most = map[string]struct{ calls, pieces int }{
	backend.IPTables: {130, 1950},
	backend.NFTables: {130, 3300},
}

// counted says to a process that strace runs how many hooks it is to play, and by which backend.
const counted = "MESHNETD_COUNTED_HOOKS"

// What a hook costs is counted, not timed: a busy machine counts the same.
func TestCostOfAHook(t *testing.T) {
	if by, hooks, ok := strings.Cut(os.Getenv(counted), " "); ok {
		n, err := strconv.Atoi(hooks)
		if err != nil {
			t.Fatal(err)
		}
		play(t, by, n)
		return
	}
	nstest.Require(t, "strace")
	for by, most := range most {
		t.Run(by, func(t *testing.T) {
			const hooks = 20
			none, some := calls(t, by, 0), calls(t, by, hooks)
			var each int
			for name, n := range some {
				if each += n - none[name]; n-none[name] >= hooks {
					t.Logf("%4.1f %s", float64(n-none[name])/hooks, name)
				}
			}
			if each /= hooks; each > most.calls {
				t.Errorf("%d system calls, want at most %d", each, most.calls)
			}
			b, w, k := counting(t, by)
			peer := b.starts(w, k)
			if err := b.allocations(w, k, peer); err != nil {
				t.Fatal(err)
			}
			var kilobytes, pieces int
			if _, err := fmt.Sscanf(peer.Note, "%d kB in %d allocations", &kilobytes, &pieces); err != nil || pieces > most.pieces {
				t.Errorf("%s (%v), want at most %d", peer.Note, err, most.pieces)
			}
			t.Logf("%d system calls, %s", each, peer.Note)
		})
	}
}

// counting is a bench, a backend of it, and the kind of pods that are started.
func counting(t *testing.T, by string) (*bench, writer, kind) {
	t.Helper()
	b := &bench{ctx: t.Context(), out: t.Output(), effort: 1}
	n, err := b.ready()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	i := slices.IndexFunc(n.backends, func(w writer) bool { return w.label == by })
	if n.backends[i].err != nil {
		t.Fatal(n.backends[i].err)
	}
	return b, n.backends[i], kinds()[0]
}

// play makes the pods that it may need, whether they are started or not, so that only the hooks differ.
func play(t *testing.T, by string, hooks int) {
	b, w, k := counting(t, by)
	e := b.node.enforcer(w, k)
	var pods []rules.Pod
	for i := range 21 {
		pod, err := b.node.pod(fmt.Sprint("counted", i), k.annotations)
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, pod)
	}
	for _, pod := range pods[:hooks+1] { // and one that is the first of its kind
		if err := protect(b.ctx, e, pod); err != nil {
			t.Fatal(err)
		}
	}
}

// schedulers are the calls that Go makes for itself, now and then.
var schedulers = []string{"clone", "clone3", "epoll_pwait", "futex", "getpid", "madvise", "mmap", "mprotect", "munmap", "nanosleep", "rt_sigprocmask",
	"rt_sigreturn", "rseq", "sched_yield", "set_robust_list", "sigaltstack", "tgkill", "total"}

// calls counts the system calls of a process that plays so many hooks.
func calls(t *testing.T, by string, hooks int) map[string]int {
	t.Helper()
	summary := filepath.Join(t.TempDir(), "summary")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-c", "-o", summary, os.Args[0], "-test.run=^TestCostOfAHook$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", counted, by, hooks))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v: %s", err, out)
	}
	text, err := os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		fields := strings.Fields(s.Text()) // % time, seconds, usecs/call, calls, errors where there are any, syscall
		if len(fields) < 5 || slices.Contains(schedulers, fields[len(fields)-1]) {
			continue
		}
		if n, err := strconv.Atoi(fields[3]); err == nil {
			all[fields[len(fields)-1]] = n
		}
	}
	if all["setns"] == 0 {
		t.Fatalf("strace counts no setns: %s", text)
	}
	return all
}
