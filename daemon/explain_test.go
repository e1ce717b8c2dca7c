// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Each time that a sandbox's rules are found changed is counted once, whoever finds it and whoever repairs it.
func TestDriftIsCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		onDrift config.OnDrift
		find    func(*testing.T, *Enforcer, rules.Pod)
	}{
		"the auditor repairs": {config.DriftRepair, func(t *testing.T, e *Enforcer, _ rules.Pod) { round{e}.Look(t.Context(), "a", &auditor.Audit{}) }},
		"the auditor reports": {config.DriftReport, func(t *testing.T, e *Enforcer, _ rules.Pod) {
			round{e}.Look(t.Context(), "a", &auditor.Audit{})
			round{e}.Look(t.Context(), "a", &auditor.Audit{})
			if o := e.Repair(limited(t, patience), "a"); o.Err != nil {
				t.Error(o.Err)
			}
		}},
		"a command repairs": {config.DriftRepair, func(t *testing.T, e *Enforcer, _ rules.Pod) {
			if o := e.Repair(limited(t, patience), "a"); o.Err != nil {
				t.Error(o.Err)
			}
		}},
		"the gate repairs": {config.DriftRepair, func(t *testing.T, e *Enforcer, pod rules.Pod) {
			app := rules.Container{Name: "app"}
			if o := e.Validate(limited(t, patience), pod, app); o.Error() == nil {
				t.Error("validated without rules")
			}
			if o := e.Admit(limited(t, patience), pod, app); o.Error() != nil {
				t.Error(o.Error())
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			e, _ := newEnforcer(t, m)
			p := *e.policy.Load()
			p.OnDrift = tt.onDrift
			e.SetPolicy(p)
			pod := protectedPod(t, e)
			began := time.Now()
			for times := range 3 {
				sb, _ := e.View().Sandbox("a")
				if sb.Drift.Times != times || sb.State != lifecycle.StateProtected || sb.Drift.Last.IsZero() != (times == 0) || times > 0 && sb.Drift.Last.Before(began) {
					t.Fatalf("after %d: %+v, %s", times, sb.Drift, sb.State)
				}
				began = time.Now()
				m.put(t, pod.NetNS, rules.Plan{})
				tt.find(t, e, pod)
			}
			// A container that says more is no drift, and does not make what was forgotten.
			if o := e.Admit(limited(t, patience), pod, rules.Container{Name: "istio-proxy", Env: map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}}); o.Event() != outcome.EventRefined {
				t.Fatalf("%+v", o)
			}
			if sb, _ := e.View().Sandbox("a"); sb.Drift.Times != 3 {
				t.Errorf("at the end: %+v", sb.Drift)
			}
		})
	}
}

// A sandbox is explained by the configuration that decided about it, from what its containers said.
func TestExplain(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	if _, _, known := e.View().Explain("a"); known {
		t.Error("explains a sandbox that is not known")
	}
	set := func(origin string) {
		p := *e.policy.Load()
		p.Node.Origin = map[string]string{"istio.dns_port": origin}
		e.SetPolicy(p)
	}
	set("old.toml:1")
	pod := protectedPod(t, e)
	if o := e.Admit(limited(t, patience), pod, rules.Container{Name: "istio-proxy", UID: new(int64(2102))}); o.Error() != nil {
		t.Fatal(o.Error())
	}
	set("new.toml:2")
	sb, d, known := e.View().Explain("a")
	if !known || sb.Pod.SandboxID != "a" || d.Action != rules.Enrol || d.Account == nil {
		t.Fatalf("%v, %+v", known, d)
	}
	got := map[string]string{}
	for _, s := range d.Account.Settings {
		got[s.Name] = s.Value + " " + s.Source
	}
	if got["dnsPort"] != "15053 old.toml:1 istio.dns_port" || got["proxyUID"] != "2102 container istio-proxy user" {
		t.Errorf("settings: %v", got)
	}
	if sb.Decision.Account != nil {
		t.Error("the daemon remembers an account that nobody asked for")
	}
	pending := sandbox(t, "b")
	e.sandboxes.Expect(e.policy.Load(), pending)
	if _, d, known := e.View().Explain("b"); !known || d.Intent == nil || d.Intent.(istio.Intent).DNSPort != 15053 {
		t.Errorf("one that nobody has looked at: %v, %+v", known, d)
	}
}

// The interfaces are those of the sandbox's namespace, and not the host's.
func TestInterfaces(t *testing.T) {
	e, _ := newEnforcer(t, nftables.New(nftables.IPTables))
	ns := nstest.New(t)
	ns.Run(t, "sh", "-ec", "ip link set lo up; ip link add net7 type veth peer name peer7; ip addr add 10.7.7.7/24 dev net7; ip addr add fd07::7/64 dev net7 nodad")
	got, err := e.View().Interfaces(memory.Sandbox{Pod: rules.Pod{NetNS: ns.Path}})
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(got, func(i rules.Interface) bool { return i.Name == "net7" }); i < 0 ||
		!slices.Equal(got[i].Addresses, []netip.Addr{netip.MustParseAddr("10.7.7.7"), netip.MustParseAddr("fd07::7")}) || got[0].Name != "lo" {
		t.Errorf("reads %v", got)
	}
	if _, err := e.View().Interfaces(memory.Sandbox{Pod: rules.Pod{NetNS: "/run/netns/meshnetd-none"}}); err == nil {
		t.Error("reads a namespace that is not there")
	}
}
