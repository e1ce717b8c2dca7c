// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// slowMesh is Istio, and decides when it may.
type slowMesh struct {
	rules.Mesh
	decide  chan struct{}
	decided *atomic.Int32
}

func (m slowMesh) Decide(pod rules.Pod) rules.Decision {
	<-m.decide
	m.decided.Add(1)
	return m.Mesh.Decide(pod)
}

func slowly(e *Enforcer) slowMesh {
	mesh := slowMesh{istios, make(chan struct{}), new(atomic.Int32)}
	e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{mesh} })
	return mesh
}

// The runtime gets its answer however long a decision takes. A pod that nobody has decided about is pending, and no
// container of it is let through.
func TestSynchronizeWaitsForNoDecision(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	mesh := slowly(e)
	web, plain := sandbox(t, "web"), rules.Pod{SandboxID: "plain", NetNS: newNetNS(t)}
	proxy := container("istio-proxy", 2000)
	proxy.Running = true
	web.Containers = []rules.Container{proxy}
	answered := make(chan struct{})
	go func() { e.Synchronize(limited(t, 50*time.Millisecond), []rules.Pod{web, plain}); close(answered) }()
	select {
	case <-answered:
	case <-time.After(patience):
		t.Fatal("no answer")
	}
	for _, id := range []string{"web", "plain"} {
		if known, _ := e.sandboxes.Get(id); known.State != lifecycle.StatePending {
			t.Errorf("%s: state %q", id, known.State)
		}
	}
	told := web
	told.Containers = nil
	if o := e.Admit(limited(t, 50*time.Millisecond), told, app); o.Result != lifecycle.Failed {
		t.Errorf("a container before the decision: %s, %v", o.Result, o.Err)
	}
	close(mesh.decide)
	// Whose try used up its time meanwhile is left to the auditor, pending or failing.
	eventually(t, "both are taken over", func() bool {
		for _, id := range []string{"web", "plain"} {
			if known, there := e.sandboxes.Get(id); there && known.State != lifecycle.StateProtected {
				round{e}.Look(t.Context(), id, new(auditor.Audit))
			}
		}
		known, _ := e.sandboxes.Get("web")
		_, pending := e.sandboxes.Get("plain")
		return known.State == lifecycle.StateProtected && !pending && slices.Contains(r.events(), outcome.EventSkipped)
	})
	if proxyUID(e) != 2000 {
		t.Errorf("proxy's user %d: what the containers said is lost", proxyUID(e))
	}
	eventually(t, "what was given up has ended", func() bool { return e.Compare(limited(t, patience), "web").Err == nil })
}

// A pod outside the mesh whose container comes before its takeover is let through without being entered.
func TestContainerOfAnUndecidedPodOutsideTheMesh(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	plain := rules.Pod{SandboxID: "plain", NetNS: "/nowhere"}
	e.sandboxes.Expect(e.policy.Load(), plain)
	if o := e.Admit(limited(t, patience), plain, app); o.Result != lifecycle.Skipped || o.Error() != nil || o.NetNS.Ino != 0 {
		t.Errorf("%s, %v", o.Result, o.Error())
	}
}

// Most pods of a node are outside the mesh: one decision shows it, and a second one for their containers.
func TestDecisionsOfATakeover(t *testing.T) {
	for what, tt := range map[string]struct {
		meshed     bool
		containers []rules.Container
		want       int32
	}{
		"plain":                 {want: 1},
		"plain with containers": {containers: []rules.Container{app}, want: 2},
		"of the mesh":           {meshed: true, containers: []rules.Container{app}, want: 2},
	} {
		e, r := newEnforcer(t, newMemory())
		mesh := slowly(e)
		close(mesh.decide)
		pod := sandbox(t, "web")
		if !tt.meshed {
			pod.Annotations = nil
		}
		pod.Containers = tt.containers
		e.Synchronize(limited(t, patience), []rules.Pod{pod})
		if got := mesh.decided.Load(); got != tt.want || r.count() != 1 {
			t.Errorf("%s: %d decisions, want %d; %v", what, got, tt.want, r.events())
		}
	}
}

// A pod of a mesh that is off and was never ours is nobody's, whatever fails; one that has a label is ours.
func TestAPodOfAMeshThatIsOffCannotBeRead(t *testing.T) {
	for _, ours := range []bool{false, true} {
		ctx := limited(t, patience)
		m := newMemory()
		e, r := severalMeshes(t, m)
		pod := ofLinkerd(t, "web")
		if ours {
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			e, r = severalMeshes(t, m)
		} else {
			m.put(t, pod.NetNS, elsewheresPlan(t, pod))
		}
		e.with(without("linkerd"))
		m.failWith(always)
		e.Synchronize(ctx, []rules.Pod{pod})
		want := map[bool]string{false: outcome.EventSkipped, true: outcome.EventUnprotected}[ours]
		if _, known := e.sandboxes.Get("web"); known != ours || !slices.Equal(r.events(), []string{want}) {
			t.Errorf("ours %v: known %v, %v", ours, known, r.events())
		}
		if o := e.Admit(ctx, pod, app); (o.Error() != nil) != ours || (o.NetNS.Ino != 0) != ours {
			t.Errorf("ours %v: a container is %s, %v", ours, o.Result, o.Error())
		}
	}
}
