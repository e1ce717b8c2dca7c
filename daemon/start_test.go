// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

const unheeded = "The start could not be refused"

// What hooks of the runtime have changed is repaired before the container runs, whatever becomes of drift otherwise; only
// where that fails it is refused.
func TestStart(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	e.with(func(p *policy.Policy) { p.OnDrift = config.DriftReport })
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	flush := func() { m.put(t, pod.NetNS, rules.Plan{}) }
	for _, tt := range []struct {
		what   string
		do     func()
		fail   func(int) error
		events []string
		want   string // of the error; "" is none
	}{
		{"as it was", func() {}, nil, nil, ""},
		{"rules of others", func() { m.touch(t, pod.NetNS) }, nil, nil, ""},
		{"flushed", flush, nil, []string{outcome.EventDrift, outcome.EventRepaired}, ""},
		{"as it was, again", func() {}, nil, nil, ""},
		{"flushed, and the kernel fails", flush, always, []string{outcome.EventBlocked}, "meshnetd could not protect pod default/web"},
		{"the kernel works again", func() {}, nil, []string{outcome.EventDrift, outcome.EventRepaired}, ""},
	} {
		tt.do()
		m.failWith(tt.fail)
		before := len(r.events())
		o := e.Start(ctx, pod, "app", "")
		if err := o.Error(); (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.what, err, tt.want)
		}
		if got := r.events()[before:]; !slices.Equal(got, tt.events) {
			t.Errorf("%s: recorded %v, want %v", tt.what, got, tt.events)
		}
		m.failWith(nil)
		if held := m.holds(t, pod.NetNS); tt.want == "" && held.Key() != o.Plan.Key() {
			t.Errorf("%s: let run with %d rules of %d", tt.what, held.Rules(), o.Plan.Rules())
		}
	}
	if sb, _ := e.View().Sandbox(pod.SandboxID); sb.Drift.Times != 2 {
		t.Errorf("drift was counted %d times", sb.Drift.Times)
	}
	if o := e.Start(ctx, sandbox(t, "unknown"), "app", ""); o.Result != lifecycle.Protected || o.Event() != outcome.EventProtected {
		t.Errorf("a sandbox that was not known: %s, %v", o.Result, o.Err)
	}
}

// The look costs one question to the firewall where nothing has changed.
func TestStartCosts(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	m.failWith(nil)
	e.Start(ctx, pod, "app", "")
	if calls, _ := m.count(); calls != 1 {
		t.Errorf("%d questions to the firewall", calls)
	}
}

// A runtime that does not heed the error runs the container, and the event says so.
func TestStartUnheeded(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	m.put(t, pod.NetNS, rules.Plan{})
	m.failWith(always)
	if o := e.Start(ctx, pod, "app", unheeded); o.Error() == nil || !strings.Contains(o.Message(), "broken. "+unheeded) {
		t.Errorf("%s: %v", o.Message(), o.Error())
	}
	if got := r.events(); !slices.Equal(got, []string{outcome.EventProtected, outcome.EventUnprotected}) {
		t.Errorf("recorded %v", got)
	}
}

// A pod outside the mesh costs no memory either; what system calls it costs is TestNoSystemCallForAPodOutsideTheMesh's.
func TestOutside(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{istios, consuls, kumas, linkerds} })
	ctx := limited(t, patience)
	web := sandbox(t, "web")
	if e.Outside(web) {
		t.Error("a pod of the mesh that is not known is outside")
	}
	if e.Enforce(ctx, lifecycle.SandboxStarted, web); e.Outside(web) {
		t.Error("a pod of the mesh is outside")
	}
	heavy := rules.Pod{SandboxID: "heavy", Annotations: map[string]string{"a": strings.Repeat("x", 100<<10)}}
	if e.Outside(heavy) {
		t.Error("what takes long to decide is decided without a bound")
	}
	plain := rules.Pod{SandboxID: "plain", Namespace: "default", Name: "plain", NetNS: "/nowhere", Labels: map[string]string{"app": "plain"}}
	outside := true
	if n := testing.AllocsPerRun(100, func() { outside = outside && e.Outside(plain) }); n != 0 || !outside {
		t.Errorf("outside: %v, with %v allocations", outside, n)
	}
}
