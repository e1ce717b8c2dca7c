// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// refusedLate is a pod that ran before the daemon came, and asks for what cannot be.
func refusedLate(t *testing.T, e *Enforcer) {
	t.Helper()
	pod := sandbox(t, "a")
	pod.Containers = []rules.Container{{Name: "app", Running: true}}
	pod.Annotations["traffic.sidecar.istio.io/includeInboundPorts"] = "http"
	e.Synchronize(limited(t, 10*time.Second), []rules.Pod{pod})
}

// Such a pod is named once and stays named: it keeps nobody waiting, and nobody repeats it.
func TestRefusedLatePod(t *testing.T) {
	e, r := newEnforcer(t, newMemory())
	refusedLate(t, e)
	sb, _ := e.View().Sandbox("a")
	if sb.State != lifecycle.StateUnprotected || sb.Decision.Reason != rules.ReasonBadInput || sb.Detail == "" {
		t.Errorf("%s (%s): %q", sb.State, sb.Decision.Reason, sb.Detail)
	}
	if events := r.events(); len(events) != 1 || events[0] != outcome.EventUnprotected {
		t.Errorf("events %q", events)
	}
	var pass auditor.Audit
	round{e}.Look(t.Context(), "a", &pass)
	again, _ := e.View().Sandbox("a")
	if events := r.events(); len(events) != 1 || !again.Since.Equal(sb.Since) {
		t.Errorf("after an audit: events %q, since %s and not %s", events, again.Since, sb.Since)
	}
}

// When the configuration leaves it alone, it is none of the mesh any more, though it bears its mark.
func TestRefusedLatePodIsLeftAlone(t *testing.T) {
	e, r := newEnforcer(t, newMemory())
	refusedLate(t, e)
	configure(e, func(d *istio.Defaults) { d.ExcludeNamespaces = []string{"default"} })
	var pass auditor.Audit
	for range 3 {
		round{e}.Look(t.Context(), "a", &pass)
	}
	if events := r.events(); len(events) != 2 || events[1] != outcome.EventSkipped || e.state("a") != lifecycle.StateSkipped {
		t.Errorf("state %q, events %q", e.state("a"), events)
	}
}

// A reload that leaves the interval as it is lets a pass come to its end; another interval begins a new one.
func TestReloadLeavesThePassAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newEnforcer(t, newMemory())
		go e.Audit(t.Context())
		hurries := func(change func(*policy.Policy)) bool {
			time.Sleep(time.Second)
			e.with(change)
			synctest.Wait()
			heard, _ := e.Auditor.Heard()
			return time.Since(heard) == 0
		}
		if hurries(func(p *policy.Policy) { p.CatchUp = "report" }) {
			t.Error("the auditor begins anew though its interval is the same")
		}
		if !hurries(func(p *policy.Policy) { p.AuditInterval *= 2 }) {
			t.Error("the auditor is not told of another interval")
		}
	})
}
