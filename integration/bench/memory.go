// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// memory measures what a meshnetd keeps for a full node: one that protected the pods, and one that was
// started when they were there.
func (b *bench) memory() error {
	if err := b.runtime(); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n%-36s %12s %12s %12s\n", "memory of meshnetd run", "RSS", "of it heap", "at most")
	var pods []*lab.Pod
	err := b.meeting(true, dualStackConfig, func(daemon *lab.Daemon) (err error) {
		if err := b.resident("without a pod", daemon); err != nil {
			return err
		}
		const atOnce = 8
		if pods, _, err = b.crowd(many, atOnce); err != nil {
			return err
		}
		if err := protected(b.ctx, daemon, pods); err != nil {
			return err
		}
		return b.resident(fmt.Sprintf("when it protected %d pods", many), daemon)
	})
	if err == nil {
		err = b.meeting(true, dualStackConfig, func(daemon *lab.Daemon) error {
			if err := protected(b.ctx, daemon, pods); err != nil {
				return err
			}
			return b.resident(fmt.Sprintf("when it took %d pods over", many), daemon)
		})
	}
	b.notef("goal: 30 MB with %d pods", many)
	return errors.Join(err, b.disperse(pods))
}

// patience is how long a daemon may take to say what it did.
const patience = 30 * time.Second

// protected waits until the daemon said so of every pod.
func protected(ctx context.Context, daemon *lab.Daemon, pods []*lab.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, pod := range pods {
		if _, err := daemon.WaitPod(ctx, "pod_protected", pod.Spec.Namespace+"/"+pod.Spec.Name); err != nil {
			return err
		}
	}
	return nil
}

// resident prints what the kernel says of the daemon's memory.
func (b *bench) resident(when string, daemon *lab.Daemon) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", daemon.PID()))
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  %-34s", when)
	for _, key := range []string{"VmRSS", "RssAnon", "VmHWM"} {
		kB, err := statusNumber(string(text), key)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, " %9.1f MB", float64(kB)*1024/1e6)
	}
	fmt.Fprintln(b.out)
	return nil
}

// statusNumber finds a number in what proc_pid_status(5) describes, in kB.
func statusNumber(text, key string) (kB int, err error) {
	_, rest, ok := strings.Cut(text, "\n"+key+":")
	if !ok {
		return 0, fmt.Errorf("the kernel does not say %s of a process", key)
	}
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		return 0, fmt.Errorf("%s of a process: %w", key, err)
	}
	return kB, nil
}
