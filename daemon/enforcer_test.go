// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// firewall is one that a test can make slow, wrong or broken, and that is never known to be unchanged.
type firewall struct {
	apply  func(context.Context) (bool, error)
	verify func() ([]rules.Difference, error)
}

func (f firewall) in(netns.ID) kernel.Firewall { return f }

func (f firewall) Name(*netns.Namespace, rules.Plan) string { return "test" }

func (f firewall) Apply(ctx context.Context, _ *netns.Namespace, _ rules.Plan) (bool, error) {
	if f.apply == nil {
		return true, nil
	}
	return f.apply(ctx)
}

func (f firewall) Verify(context.Context, *netns.Namespace, rules.Plan) ([]rules.Difference, error) {
	if f.verify == nil {
		return nil, nil
	}
	return f.verify()
}

func (f firewall) Effect(context.Context, *netns.Namespace, rules.Plan, rules.Plan, []rules.Interface) (effect.Result, error) {
	if f.verify == nil {
		return effect.Result{}, nil
	}
	if found, err := f.verify(); err != nil || len(found) > 0 {
		return effect.Result{Answer: effect.Less}, err
	}
	return effect.Result{}, nil
}

func (f firewall) Own(context.Context, *netns.Namespace, rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	return v4, v6, nil
}

func (f firewall) Fingerprint(context.Context, *netns.Namespace) (fingerprint, generation string, err error) {
	return "", "before", nil
}

func (f firewall) Generation(context.Context, *netns.Namespace) (string, error) { return "", nil }

func (f firewall) Counts(context.Context, *netns.Namespace) (map[string]uint64, error) {
	return nil, nil
}

// recorder keeps outcomes.
type recorder struct {
	mu       sync.Mutex
	outcomes []outcome.Outcome
}

func (r *recorder) record(o outcome.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes = append(r.outcomes, o)
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.outcomes)
}

// newEnforcer returns a daemon of the test's node: those of one test share its directory.
func newEnforcer(t testing.TB, firewall any) (*Enforcer, *recorder) {
	t.Helper()
	dir := filepath.Dir(t.TempDir()) + "-beside" // not the test's, since work that it gave up may still write there; the same for a restart
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	locks, err := netns.MakeLocks(filepath.Join(dir, "locks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(locks.Close)
	r := &recorder{}
	node := rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard())}, RuntimeHandlers: []string{""}}
	return New(standard(node), kernelOf(t, firewall, locks), receipts.In(locks.Directory()), r.record), r
}

func standard(node rules.Node) policy.Policy {
	c := config.Default()
	return policy.Policy{Node: node, ProxyIdentity: c.ProxyIdentity, IdentityExempt: c.IdentityExempt, CatchUp: c.CatchUp, OnDrift: c.OnDrift, AuditInterval: c.AuditInterval}
}

func meshed(path string) rules.Pod {
	return rules.Pod{Namespace: "default", Name: "web", NetNS: path, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Annotations: map[string]string{"sidecar.istio.io/status": "{}"}}
}

func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// The runtime gets its answer in time from a firewall that hangs and honours no context; the late worker keeps others
// out meanwhile, and the next try works.
func TestAnswerInTime(t *testing.T) {
	pod := meshed(newNetNS(t))
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var hang atomic.Bool
		hang.Store(true)
		e, r := newEnforcer(t, firewall{apply: func(context.Context) (bool, error) {
			if hang.Load() {
				<-release
			}
			return true, nil
		}})
		o, held := start(t, e, pod)
		if o.Result != lifecycle.Failed || o.Stage != outcome.StageBudget || !errors.Is(o.Err, context.DeadlineExceeded) || held != hookTime {
			t.Fatalf("got %s in %s after %s, %v", o.Result, o.Stage, held, o.Err)
		}
		hang.Store(false)
		time.Sleep(time.Minute)
		if o, held := start(t, e, pod); o.Result != lifecycle.Failed || held != 0 {
			t.Fatalf("while the first is still at work: got %s after %s, %v", o.Result, held, o.Err)
		}
		close(release)
		synctest.Wait()
		if o, _ := start(t, e, pod); o.Result != lifecycle.Protected {
			t.Fatalf("after it: got %s, %v", o.Result, o.Err)
		}
		if n := r.count(); n != 3 {
			t.Errorf("%d outcomes recorded for 3 tries", n)
		}
	})
}

func TestFailuresAreNeverProtected(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		f     firewall
		want  string
		stage outcome.Stage
	}{
		"apply fails":  {firewall{apply: func(context.Context) (bool, error) { return false, broken }}, "broken", outcome.StageApply},
		"apply panics": {firewall{apply: func(context.Context) (bool, error) { panic("broken") }}, "panic: broken", outcome.StageApply},
		"verify fails": {firewall{verify: func() ([]rules.Difference, error) { return nil, broken }}, "broken", outcome.StageVerify},
		"verify differs": {firewall{verify: func() ([]rules.Difference, error) {
			return []rules.Difference{{Family: rules.IPv4, Table: "nat", Chain: "OUTPUT", Kind: "missing", Rule: "-j X"}}, nil
		}}, "the kernel does not hold what was written: iptables nat: missing: -A OUTPUT -j X", outcome.StageVerify},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := newEnforcer(t, tt.f)
			o := e.Enforce(limited(t, 10*time.Second), lifecycle.SandboxStarted, meshed(newNetNS(t)))
			if o.Result != lifecycle.Failed || o.Error() == nil || !strings.Contains(o.Error().Error(), tt.want) || o.Stage != tt.stage {
				t.Errorf("got %s in %s, %v\nwant %q in %s", o.Result, o.Stage, o.Error(), tt.want, tt.stage)
			}
		})
	}
}

// The runtime starts no pod of the node while a Synchronize is unanswered.
func TestSynchronizeAnswersAndGoesOn(t *testing.T) {
	release := make(chan struct{})
	e, r := newEnforcer(t, firewall{verify: func() ([]rules.Difference, error) { <-release; return nil, nil }})
	var pods []rules.Pod
	for range 3 * takeoverWorkers {
		pods = append(pods, meshed(newNetNS(t)))
	}
	e.Synchronize(limited(t, 50*time.Millisecond), pods)
	if n := r.count(); n != 0 {
		t.Fatalf("%d pods done by a firewall that hangs", n)
	}
	close(release)
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.count() < len(pods) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%d of %d pods done", r.count(), len(pods))
		}
	}
	for _, o := range r.outcomes {
		if o.Result != lifecycle.Protected || o.Event() != outcome.EventProtected {
			t.Errorf("got %s, %s, %v", o.Result, o.Event(), o.Err)
		}
	}
}

// brokenMesh panics for every pod.
type brokenMesh struct{ rules.Mesh }

func (brokenMesh) Decide(rules.Pod) rules.Decision { panic("broken mesh") }

func TestPanicInTheDecision(t *testing.T) {
	e, r := newEnforcer(t, firewall{})
	e.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{brokenMesh{}}}))
	o := e.Enforce(t.Context(), lifecycle.SandboxStarted, meshed("/run/netns/x"))
	if o.Result != lifecycle.Failed || o.Error() == nil || !strings.Contains(o.Error().Error(), "broken mesh") {
		t.Errorf("got %s, %v", o.Result, o.Error())
	}
	e.Synchronize(limited(t, 10*time.Second), []rules.Pod{meshed("/run/netns/x")})
	if n := r.count(); n != 2 {
		t.Errorf("%d outcomes recorded, want 2", n)
	}
}
