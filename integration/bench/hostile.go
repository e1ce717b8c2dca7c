// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
)

const (
	greedyPods    = 20 // of every mesh, each with as much in its lists as Kubernetes allows
	honestPods    = 50
	kubeletPause  = 10 * time.Second // between two tries of a pod
	auditInterval = 2 * time.Second
	looked        = 10 // pods whose rules are flushed
)

// hostile measures what honest pods notice of hostile ones: those are there when meshnetd starts, and are tried over and
// over as a kubelet does.
func (b *bench) hostile() error {
	if err := b.runtime(); err != nil {
		return err
	}
	quiet := &speed.Peer{Name: "on a quiet node"}
	noisy := &speed.Peer{Name: fmt.Sprintf("beside %d hostile pods", greedyPods)}
	rounds := b.rounds(5)
	for round := range rounds {
		for _, p := range [][]*speed.Peer{{quiet, noisy}, {noisy, quiet}}[round%2] {
			err := b.among(p == noisy, func(daemon *lab.Daemon) error { return b.honest(p, daemon) })
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, rounds)
	}
	fmt.Fprintln(os.Stderr)
	speed.Table(b.out, "RunPodSandbox of an honest pod", speed.Rows(quiet, noisy)...)
	b.notef("goal: 1.5")
	return b.among(true, b.drifts)
}

// honest takes samples of pods that stay until all were started.
func (b *bench) honest(p *speed.Peer, daemon *lab.Daemon) error {
	var pods []*lab.Pod
	var err error
	for range honestPods / 5 {
		pod, took, runErr := b.lab.TimePod(b.ctx, b.spec(true))
		if err = runErr; err != nil {
			break
		}
		pods, p.Samples = append(pods, pod), append(p.Samples, took)
	}
	if err == nil {
		err = protected(b.ctx, daemon, pods)
	}
	return errors.Join(err, b.disperse(pods))
}

// among calls fn while a meshnetd runs, alone or among hostile pods.
func (b *bench) among(hostile bool, fn func(*lab.Daemon) error) (err error) {
	b.calm()
	config := fmt.Sprintf("audit_interval = %q\n%s", auditInterval, dualStackConfig)
	if !hostile {
		return b.meeting(true, config, fn)
	}
	var sandboxes []*lab.Pod
	for range greedyPods / len(lab.Greedy()) {
		for _, spec := range lab.Greedy() {
			b.pods++
			spec.Name = fmt.Sprintf("%s-%d", spec.Name, b.pods)
			pod, err := b.lab.RunPod(b.ctx, spec)
			if err != nil {
				return errors.Join(err, b.disperse(sandboxes))
			}
			sandboxes = append(sandboxes, pod)
		}
	}
	err = b.meeting(true, config, func(daemon *lab.Daemon) error {
		ctx, stop := context.WithCancel(b.ctx)
		var kubelets sync.WaitGroup
		for i, pod := range sandboxes {
			spec := pod.Spec
			spec.Name, spec.UID = spec.Name+"-new", ""
			kubelets.Go(func() { b.kubelet(ctx, spec, time.Duration(i)*kubeletPause/greedyPods) })
		}
		err := fn(daemon)
		stop()
		kubelets.Wait()
		return err
	})
	return errors.Join(err, b.disperse(sandboxes))
}

// kubelet tries a pod that is refused, again and again.
func (b *bench) kubelet(ctx context.Context, spec lab.PodSpec, pause time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		_, _ = b.lab.RunPod(ctx, spec) // the sandbox that could not be made is gone
		spec.Attempt++
		pause = kubeletPause
	}
}

// drifts measures on a full node how long the rules of an honest pod stay away that somebody took out, and what the
// daemon takes for all that.
func (b *bench) drifts(daemon *lab.Daemon) error {
	const atOnce = 4
	pods, _, err := b.crowd(honestPods, atOnce)
	if err == nil {
		err = protected(b.ctx, daemon, pods)
	}
	repairs := &speed.Peer{Name: fmt.Sprintf("audit_interval is %s", auditInterval)}
	for i := 0; err == nil && i < min(b.rounds(looked), len(pods)); i++ {
		var took time.Duration
		took, err = b.repair(daemon, pods[i])
		repairs.Samples = append(repairs.Samples, took)
	}
	if err == nil {
		speed.Table(b.out, "changed rules are repaired after", repairs.Row())
		b.notef("goal: two intervals at most")
		fmt.Fprintf(b.out, "\n%-36s %12s %12s %12s\n", "memory of meshnetd run", "RSS", "of it heap", "at most")
		err = b.resident(fmt.Sprintf("%d honest, %d hostile pods", honestPods, greedyPods), daemon)
		b.notef("goal: 100 MB at most")
	}
	return errors.Join(err, b.disperse(pods))
}

// repair takes a pod's rules out, and returns how long it was without them.
func (b *bench) repair(daemon *lab.Daemon, pod *lab.Pod) (time.Duration, error) {
	flush := exec.CommandContext(b.ctx, "nsenter", "--net="+pod.NetNS(), "iptables-nft", "-t", "nat", "-F")
	if out, err := flush.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("flush the rules of %s: %w: %s", pod.Spec.Name, err, strings.TrimSpace(string(out)))
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	line, err := daemon.WaitPod(ctx, "drift_repaired", pod.Spec.Namespace+"/"+pod.Spec.Name)
	return line.Time.Sub(began), err
}
