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
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// addressed is a daemon with a real firewall and a pod of one IPv4 address, which the runtime tells.
func addressed(t *testing.T, ipv6 rules.WithoutIPv6, addresses ...string) (*Enforcer, *recorder, rules.Pod, *nstest.Namespace) {
	t.Helper()
	e, r := newEnforcer(t, nftables.New(nftables.Native))
	defaults := istio.Standard()
	defaults.WithoutIPv6 = ipv6
	e.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{istio.New(defaults)}, RuntimeHandlers: []string{""}}))
	ns := nstest.New(t, append(addresses, "fe80::99/64")...)
	ns.Run(t, "ip", "addr", "del", "fe80::99/64", "dev", "eth0")
	pod := meshed(ns.Path)
	pod.SandboxID, pod.IPs = "sandbox", []netip.Addr{netip.MustParsePrefix(addresses[0]).Addr()}
	if o := e.Enforce(limited(t, 10*time.Second), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatalf("%s: %v", o.Result, o.Err)
	}
	return e, r, pod, ns
}

// Where the configuration lets IPv6 go around, an address that comes later is noticed by the auditor and by the gate,
// once, and what is remembered says so.
func TestAddressThatComesLaterIsNoticed(t *testing.T) {
	for name, look := range map[string]func(*Enforcer, rules.Pod){
		"audit": func(e *Enforcer, pod rules.Pod) { round{e}.Look(t.Context(), pod.SandboxID, &auditor.Audit{}) },
		"gate": func(e *Enforcer, pod rules.Pod) {
			if o := e.Validate(t.Context(), pod, rules.Container{Name: "app"}); o.Error() != nil {
				t.Errorf("refused: %v", o.Error())
			}
		},
	} {
		for _, address := range []string{"fe80::7/64", "fd00::7/64"} {
			t.Run(name+" "+address, func(t *testing.T) {
				e, r, pod, ns := addressed(t, rules.IPv6Mesh, "10.0.0.1/24")
				if sb, _ := e.View().Sandbox(pod.SandboxID); sb.Plan.WithoutIPv6 != "" {
					t.Fatalf("before there is an address: %q", sb.Plan.WithoutIPv6)
				}
				ns.Run(t, "ip", "addr", "add", address, "dev", "eth0", "nodad")
				look(e, pod)
				look(e, pod)
				if sb, _ := e.View().Sandbox(pod.SandboxID); sb.State != lifecycle.StateProtected || sb.Plan.WithoutIPv6 != rules.IPv6Mesh {
					t.Errorf("%s, IPv6 %q", sb.State, sb.Plan.WithoutIPv6)
				}
				ns.Run(t, "ip", "addr", "del", address, "dev", "eth0")
				look(e, pod)
				if sb, _ := e.View().Sandbox(pod.SandboxID); sb.Plan.WithoutIPv6 != "" {
					t.Errorf("when it is gone: %q", sb.Plan.WithoutIPv6)
				}
				if got, want := r.events(), []string{outcome.EventProtected, outcome.EventReaddressed, outcome.EventReaddressed}; !slices.Equal(got, want) {
					t.Errorf("events %q, want %q", got, want)
				}
			})
		}
	}
}

// Whatever comes and goes, the rules of IPv6 stay what they were: no router's advertisement, and nobody in the pod, takes
// them away for a while.
func TestAddressesTakeNoRulesAway(t *testing.T) {
	for name, tt := range map[string]struct {
		ipv6      rules.WithoutIPv6
		addresses []string
		change    []string // commands of ip
	}{
		"reset":                       {rules.IPv6Block, []string{"10.0.0.1/24"}, []string{"add fd00::7/64", "del fd00::7/64", "add fe80::7/64"}},
		"captured":                    {rules.IPv6Capture, []string{"10.0.0.1/24", "fd00::7/64"}, []string{"del fd00::7/64"}},
		"spoken, then IPv4 as well":   {rules.IPv6Mesh, []string{"fd00::7/64"}, []string{"add 10.0.0.1/24"}},
		"spoken, then IPv4, reset":    {rules.IPv6Block, []string{"fd00::7/64"}, []string{"add 10.0.0.1/24", "del fd00::7/64"}},
		"spoken, then none, captured": {rules.IPv6Capture, []string{"fd00::7/64"}, []string{"del fd00::7/64"}},
	} {
		t.Run(name, func(t *testing.T) {
			e, r, pod, ns := addressed(t, tt.ipv6, tt.addresses...)
			before, _ := e.View().Sandbox(pod.SandboxID)
			if before.Plan.V6.Empty() {
				t.Fatal("no rules of IPv6")
			}
			for _, change := range tt.change {
				ns.Run(t, "sh", "-c", "ip addr "+change+" dev eth0")
				round{e}.Look(t.Context(), pod.SandboxID, &auditor.Audit{})
				sb, _ := e.View().Sandbox(pod.SandboxID)
				if sb.State != lifecycle.StateProtected || sb.Key != before.Key {
					t.Errorf("after %s: %s %s\n%s", change, sb.State, sb.Detail, sb.Plan.V6)
				}
				if o := e.Compare(t.Context(), pod.SandboxID); o.Err != nil || len(o.Differences) > 0 {
					t.Errorf("after %s: %v %q", change, o.Err, o.Differences)
				}
			}
			if got := r.events(); len(got) != 1 {
				t.Errorf("events %q", got)
			}
		})
	}
}

// lo takes no address while IPv6 is switched off there: the rules are in, and the address that they lead to follows.
func TestIPv6OnLoComesLater(t *testing.T) {
	off := func(ns *nstest.Namespace, to string) {
		ns.Run(t, "sh", "-c", "echo "+to+" > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
	}
	e, r := newEnforcer(t, nftables.New(nftables.IPTables))
	ns := nstest.New(t, "10.0.0.1/24")
	off(ns, "1")
	pod := meshed(ns.Path)
	pod.SandboxID = "sandbox"
	pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}}
	o := e.Enforce(limited(t, 10*time.Second), lifecycle.SandboxStarted, pod)
	if o.Result != lifecycle.Protected || o.Plan.V6.Empty() || len(o.Plan.Loopback) > 0 {
		t.Fatalf("%s: %v, %v", o.Result, o.Err, o.Plan.Loopback)
	}
	off(ns, "0")
	round{e}.Look(t.Context(), pod.SandboxID, &auditor.Audit{})
	if sb, _ := e.View().Sandbox(pod.SandboxID); sb.State != lifecycle.StateProtected || len(sb.Plan.Loopback) != 1 {
		t.Errorf("%s: %v %v", sb.State, sb.Detail, sb.Plan.Loopback)
	}
	if got, want := r.events(), []string{outcome.EventProtected, outcome.EventReaddressed}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// Rules of an earlier configuration stay, and what they leave alone is said.
func TestOutdatedRulesAndIPv6(t *testing.T) {
	e, _, pod, ns := addressed(t, rules.IPv6Mesh, "10.0.0.1/24")
	later, r := newEnforcer(t, nftables.New(nftables.Native))
	policy := *e.policy.Load()
	defaults := istio.Standard()
	defaults.WithoutIPv6, policy.CatchUp = rules.IPv6Block, config.CatchUpApply
	policy.Node.Meshes = []rules.Mesh{istio.New(defaults)}
	later.SetPolicy(policy)
	ns.Run(t, "ip", "addr", "add", "fe80::7/64", "dev", "eth0", "nodad")
	later.Synchronize(t.Context(), []rules.Pod{pod})
	sb, _ := later.View().Sandbox(pod.SandboxID)
	if sb.State != lifecycle.StateOutdated || !sb.Plan.V6.Empty() || sb.Plan.WithoutIPv6 != rules.IPv6Mesh {
		t.Errorf("%s, IPv6 %q", sb.State, sb.Plan.WithoutIPv6)
	}
	ns.Run(t, "ip", "addr", "del", "fe80::7/64", "dev", "eth0")
	round{later}.Look(t.Context(), pod.SandboxID, &auditor.Audit{})
	if sb, _ := later.View().Sandbox(pod.SandboxID); sb.State != lifecycle.StateOutdated || sb.Plan.WithoutIPv6 != "" {
		t.Errorf("when the address is gone: %s, IPv6 %q; %q", sb.State, sb.Plan.WithoutIPv6, r.events())
	}
}
