// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// dualStack is a mesh whose proxies speak IPv6 too, so that both families have rules.
func dualStack() istio.Defaults {
	d := istio.Standard()
	d.DualStack = true
	return d
}

// manyPods protects pods in namespaces of their own.
func manyPods(b *testing.B, e *daemon.Enforcer, n int) []rules.Pod {
	b.Helper()
	pods := make([]rules.Pod, n)
	for i := range pods {
		ns := nstest.New(b, "10.0.0.1/24", "fd00::1/64")
		pods[i] = rules.Pod{SandboxID: fmt.Sprint("pod", i), Namespace: "default", Name: fmt.Sprint("pod", i), NetNS: ns.Path,
			Annotations: lab.Injected(nil)}
		if o := e.Enforce(b.Context(), daemon.SandboxStarted, pods[i]); o.Result != daemon.Protected {
			b.Fatal(o.Err)
		}
	}
	return pods
}

// report gives the median and the 99th percentile, which say more than the mean on a noisy machine.
func report(b *testing.B, samples []time.Duration) {
	slices.Sort(samples)
	b.ReportMetric(float64(samples[len(samples)/2].Nanoseconds())/1e3, "µs-median")
	b.ReportMetric(float64(samples[len(samples)*99/100].Nanoseconds())/1e3, "µs-p99")
	b.ReportMetric(0, "ns/op")
}

// What the runtime's last two questions about a container of a healthy pod cost, beside the runtime's own.
func BenchmarkGate(b *testing.B) {
	for _, variant := range variants {
		e := newEnforcer(b, variant, dualStack())
		pod := manyPods(b, e, 1)[0]
		id := int64(1000)
		c := rules.Container{Name: "app", UID: &id, GID: &id, NetNS: pod.NetNS}
		for name, ask := range map[string]func(context.Context, rules.Pod, rules.Container) daemon.Outcome{
			"CreateContainer": e.Admit, "Validate": e.Validate,
		} {
			b.Run(variant+"/"+name, func(b *testing.B) {
				var samples []time.Duration
				for b.Loop() {
					began := time.Now()
					if o := ask(b.Context(), pod, c); o.Result != daemon.Protected {
						b.Fatal(o.Err)
					}
					samples = append(samples, time.Since(began))
				}
				report(b, samples)
			})
		}
	}
}

// What it takes to verify 250 pods that are there when the daemon starts.
func BenchmarkSynchronize250(b *testing.B) {
	for _, variant := range variants {
		b.Run(variant, func(b *testing.B) {
			pods := manyPods(b, newEnforcer(b, variant, dualStack()), 250)
			var samples []time.Duration
			for b.Loop() {
				b.StopTimer()
				e := newEnforcer(b, variant, dualStack()) // that knows nothing
				b.StartTimer()
				began := time.Now()
				e.Synchronize(b.Context(), pods)
				samples = append(samples, time.Since(began))
				if n := len(e.Sandboxes()); n != len(pods) {
					b.Fatalf("%d of %d pods verified", n, len(pods))
				}
			}
			report(b, samples)
		})
	}
}

// What the auditor costs for 250 healthy pods, in processor time of the whole process, as a share of one
// core at the default interval.
func BenchmarkAudit250(b *testing.B) {
	for _, variant := range variants {
		b.Run(variant, func(b *testing.B) {
			e := newEnforcer(b, variant, dualStack())
			manyPods(b, e, 250)
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan struct{})
			before := processorTime(b)
			passes := 0
			go func() { e.Audit(ctx); close(ended) }() // newEnforcer's policy has no interval: one pass after the other
			for b.Loop() {
				last, _ := e.LastAudit()
				for next := last; next.Ended.Equal(last.Ended); next, _ = e.LastAudit() {
					time.Sleep(time.Millisecond)
				}
				passes++
			}
			used := processorTime(b) - before
			stop()
			<-ended
			share := used.Seconds() / float64(passes) / config.Default().AuditInterval.Seconds()
			b.ReportMetric(100*share, "%-of-a-core")
			b.ReportMetric(float64(used.Microseconds())/float64(passes*250), "µs-cpu/pod")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
