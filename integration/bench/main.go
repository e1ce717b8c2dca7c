// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command bench measures what meshnetd adds to a pod's start, on a real containerd. All figures come from
// one run in which the kinds of pods take turns, so that a noisy machine is noisy for all. `make bench`
// runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

func main() {
	runtimes := flag.String("runtimes", "", "directory that integration/runtimes/build.sh built into")
	program := flag.String("meshnetd", "", "the meshnetd program")
	standin := flag.String("standin", "", "the stand-in program")
	rounds := flag.Int("rounds", 20, "how often the kinds of pods take turns")
	pods := flag.Int("pods", 10, "pods of each kind in a round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := bench{ctx: ctx, program: *program, pods: *pods}
	if err := b.run(lab.Options{Version: lab.Containerd24, Binaries: *runtimes, Standin: *standin, DualStack: true}, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	b.print(os.Stdout)
}

// kind is one kind of pod, and the daemon it meets.
type kind struct {
	name   string
	daemon bool
	config string
	meshed bool
	times  []time.Duration // of RunPodSandbox, as the kubelet sees it
	hooks  []time.Duration // of these, what meshnetd took
}

type bench struct {
	ctx     context.Context
	program string
	pods    int
	count   int
	lab     *lab.Lab
	kinds   []*kind
}

func (b *bench) run(options lab.Options, rounds int) (err error) {
	if b.lab, err = lab.Start(b.ctx, options); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	b.kinds = []*kind{
		{name: "without meshnetd"},
		{name: "with meshnetd, outside the mesh", daemon: true},
		{name: "with meshnetd, meshed, IPv4", daemon: true, meshed: true},
		{name: "with meshnetd, meshed, dual stack", daemon: true, meshed: true, config: "istio.dual_stack = true\n"},
	}
	for round := range rounds + 1 { // the first one warms up and does not count
		// Each round begins with another kind, so that none always follows the same one.
		for i := range b.kinds {
			k := b.kinds[(i+round)%len(b.kinds)]
			if err := b.round(k); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			if round == 0 {
				k.times, k.hooks = nil, nil
			}
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round, rounds)
	}
	fmt.Fprintln(os.Stderr)
	return nil
}

// round runs a few pods of one kind, one after the other.
func (b *bench) round(k *kind) (err error) {
	var daemon *lab.Daemon
	if k.daemon {
		if daemon, err = b.lab.RunDaemon(b.ctx, b.program, k.config); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, daemon.Terminate(b.ctx)) }()
	}
	for range b.pods {
		if err := b.pod(k, daemon); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) pod(k *kind, daemon *lab.Daemon) error {
	b.count++
	spec := lab.PodSpec{Name: fmt.Sprintf("pod-%d", b.count)}
	event := "pod_skipped"
	if k.meshed {
		spec.Annotations, event = lab.Injected(nil), "pod_protected"
	}
	pod, took, err := b.lab.TimePod(b.ctx, spec)
	if err != nil {
		return err
	}
	k.times = append(k.times, took)
	if daemon != nil {
		line, err := daemon.WaitPod(b.ctx, event, "default/"+spec.Name)
		if err != nil {
			return err
		}
		k.hooks = append(k.hooks, time.Duration(line.Took)*time.Microsecond)
	}
	return pod.Remove(b.ctx)
}

func (b *bench) print(out *os.File) {
	base := quantile(b.kinds[0].times, 50)
	fmt.Fprintf(out, "%-36s %5s  %10s %10s %7s  %10s %10s\n", "RunPodSandbox, by CRI", "pods", "median", "p99", "ratio", "hook", "hook p99")
	for _, k := range b.kinds {
		median := quantile(k.times, 50)
		fmt.Fprintf(out, "%-36s %5d  %10s %10s %7.3f", k.name, len(k.times), ms(median), ms(quantile(k.times, 99)), float64(median)/float64(base))
		if len(k.hooks) > 0 {
			fmt.Fprintf(out, "  %10s %10s", ms(quantile(k.hooks, 50)), ms(quantile(k.hooks, 99)))
		}
		fmt.Fprintln(out)
	}
}

func quantile(times []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.3f ms", float64(d.Microseconds())/1000) }
