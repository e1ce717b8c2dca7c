// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// played says to a process that strace runs by which backend it is to play hooks.
const played = "MESHNETD_PLAYED_HOOKS"

// marker is what begins the name of a file that is asked for where a stage begins; the stage's number follows.
const marker = "/a-stage-of-the-hook/"

// schedulers are the calls that Go makes for itself, now and then.
const schedulers = "clone,clone3,epoll_pwait,futex,getpid,madvise,mmap,mprotect,munmap,nanosleep,rt_sigprocmask,rt_sigreturn,rseq,sched_yield," +
	"set_robust_list,sigaltstack,tgkill"

// play plays hooks for strace, of which the first is not like the others.
func (b *bench) play(by string) error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	for _, w := range n.backends {
		if w.label != by {
			continue
		}
		s, e := b.watch(w)
		for i := range b.rounds(countedHooks) + 1 {
			s.mark = i > 0
			if err := b.measured(s, e, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// traced returns the system calls of a hook's stages, and the bytes that they moved. args have this program play.
func (b *bench) traced(by string, args ...string) (costs [stageCount]cost, err error) {
	dir, err := os.MkdirTemp("", "meshnetd-trace-")
	if err != nil {
		return costs, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log := filepath.Join(dir, "log")
	// Raw: to show what is sent, strace would look for each socket among all of the machine.
	cmd := exec.CommandContext(b.ctx, "strace", append([]string{"-f", "-qq", "-s", "64", "-e", "signal=none", "-e", "trace=!" + schedulers, "-e", "raw=!/access", "-o", log, os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), played+"="+by)
	if out, err := cmd.CombinedOutput(); err != nil {
		return costs, fmt.Errorf("strace: %w: %s", err, out)
	}
	file, err := os.Open(log)
	if err != nil {
		return costs, err
	}
	defer file.Close()
	return stagesOf(file)
}

var (
	marked   = regexp.MustCompile(`access(?:at2?)?\(.*"` + marker + `(\d+)"`)
	called   = regexp.MustCompile(`^\d+ +(<\.\.\. )?(\w+)`)
	returned = regexp.MustCompile(` = (0x[0-9a-f]+)$`)
)

// stagesOf reads what strace wrote of hooks whose stages are marked.
func stagesOf(log io.Reader) (costs [stageCount]cost, err error) {
	at, hooks := outside, 0.0
	for s := bufio.NewScanner(log); s.Scan(); {
		line := s.Text()
		if mark := marked.FindStringSubmatch(line); mark != nil {
			n, err := strconv.Atoi(mark[1])
			if err != nil || n > int(outside) {
				return costs, fmt.Errorf("stage %s is none", mark[1])
			}
			if at = stage(n); at == deciding {
				hooks++
			}
			continue
		}
		call := called.FindStringSubmatch(line)
		if at == outside || call == nil || strings.Contains(line, "resumed>") && strings.Contains(line, "access") {
			continue
		}
		if call[1] == "" { // it begins here, and may end in a line that says so
			costs[at].calls++
		}
		end := returned.FindStringSubmatch(line)
		if end == nil {
			continue
		}
		n, err := strconv.ParseUint(end[1], 0, 64)
		if err != nil {
			return costs, err
		}
		switch call[2] {
		case "sendmsg", "sendto", "write":
			costs[at].sent += float64(n)
		case "recvmsg", "recvfrom", "read":
			costs[at].read += float64(n)
		}
	}
	if costs[entering].calls == 0 {
		return costs, errors.New("strace shows nobody who enters a namespace")
	}
	for i := range costs {
		costs[i].calls /= hooks
		costs[i].sent /= hooks
		costs[i].read /= hooks
	}
	return costs, nil
}
