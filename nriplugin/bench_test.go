// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/rules"
)

// What a container costs with an Enforcer that does nothing, measured where the runtime waits for it.

func BenchmarkCreateContainerHook(b *testing.B) { benchmarkHook(b, "CreateContainer") }
func BenchmarkValidateHook(b *testing.B)        { benchmarkHook(b, "ValidateContainerAdjustment") }

func BenchmarkStartHook(b *testing.B) { benchmarkHook(b, "StartContainer") }

func benchmarkHook(b *testing.B, what string) {
	socket := socketPath(b)
	rt := startRuntime(b, socket, "containerd", "v2.4.2")
	run(b, socket, nothing{})
	rt.connected(b)
	pod := meshed("a")
	for b.Loop() {
		if err := rt.createContainer(b, pod); err != nil {
			b.Fatal(err)
		}
		if err := rt.start(b, pod); err != nil {
			b.Fatal(err)
		}
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	took := rt.took[what]
	if len(took) == 0 {
		b.Fatalf("the runtime asked for %v only", rt.took)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/float64(time.Microsecond), "median-µs")
	b.ReportMetric(float64(took[len(took)*99/100])/float64(time.Microsecond), "p99-µs")
}

// nothing is an Enforcer that lets everything pass.
type nothing struct{}

func (nothing) Enforce(context.Context, rules.Pod) error                   { return nil }
func (nothing) Admit(context.Context, rules.Pod, rules.Container) error    { return nil }
func (nothing) Validate(context.Context, rules.Pod, rules.Container) error { return nil }
func (nothing) Outside(rules.Pod) bool                                     { return false }
func (nothing) Start(context.Context, rules.Pod, string, string) error     { return nil }
func (nothing) Deciding(pod rules.Pod) rules.Pod                           { return pod }
func (nothing) Bounded(c rules.Container) rules.Container                  { return c }
func (nothing) Synchronize(context.Context, []rules.Pod)                   {}
