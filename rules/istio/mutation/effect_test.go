// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/static"
)

// By its effect, a mutant of Istio's rules is another plan where some packet ends elsewhere, and the same where it is shown
// that none does. Of nine mutants one is asked; with MESHNETD_MUTANTS=all each is.
func TestEffectOfMutants(t *testing.T) {
	step := 9
	if os.Getenv("MESHNETD_MUTANTS") == "all" {
		step = 1
	}
	n, counts := 0, map[effect.Answer]int{}
	for _, s := range allSubjects(t) {
		worlds := worldsOf(t, s)
		for _, m := range Mutants(s.rules()) {
			if n++; n%step != 0 {
				continue
			}
			answer := judged(t, s, worlds, m)
			counts[answer]++
			equivalent := reason(s.rules(), m) != ""
			if equivalent && answer != effect.Equal || answer == effect.Equal && endsElsewhere(worlds, s.with(m.Rules)) {
				t.Errorf("%s %s: %s: %s, equivalent %t", s.name, s.family, m, answer, equivalent)
			}
		}
	}
	t.Logf("of %d mutants: %v", n, counts)
	if counts[effect.Less] < 3*n/step/10 || counts[effect.More] < n/step/10 || counts[effect.Equal] == 0 || counts[effect.CannotTell] > 0 {
		t.Errorf("of %d mutants: %v", n, counts)
	}
}

// The same of the other meshes' rules. Of theirs it is not known which mutants are equivalent, and some are told by no
// witness.
func TestEffectOfOtherMeshesMutants(t *testing.T) {
	pod := func(labels, annotations map[string]string) rules.Pod {
		return rules.Pod{Namespace: "shop", Name: "cart", IPs: both, Labels: labels, Annotations: annotations}
	}
	ports := []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}}
	total := 0
	for name, plan := range map[string]rules.Plan{
		"linkerd": meshtest.Plan(t, linkerd.New(linkerd.Standard()), pod(map[string]string{"linkerd.io/control-plane-ns": "linkerd"}, map[string]string{
			"linkerd.io/proxy-version": "edge-26.8.3", "config.linkerd.io/skip-outbound-ports": "3306", "config.linkerd.io/skip-inbound-ports": "22,7000-7010",
			"config.linkerd.io/skip-subnets": "172.17.0.0/16"})),
		"kuma": meshtest.Plan(t, kuma.New(kuma.Standard()), pod(nil, map[string]string{"kuma.io/sidecar-injected": "true",
			"traffic.kuma.io/transparent-proxy-config": "cniMode: true\nredirect: {dns: {enabled: true, captureAll: true, port: 15053}, inbound: {enabled: true, port: 15006}, " +
				"outbound: {enabled: true, port: 15001, excludePortsForUIDs: ['tcp:22:1001-1005', 'udp:53,81:1001', 1003], excludePortsForIPs: ['10.0.0.0/8']}}"})),
		"consul": meshtest.Plan(t, consul.New(consul.Standard()), pod(nil, map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
			"consul.hashicorp.com/transparent-proxy-status": "enabled", "consul.hashicorp.com/dual-stack": "false",
			"consul.hashicorp.com/redirect-traffic-config": `{"ConsulDNSIP":"10.0.0.10","ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001,` +
				`"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["25"],"ExcludeOutboundCIDRs":["10.0.0.0/8"],"ExcludeUIDs":["5996","1"]}`})),
		"static": meshtest.Plan(t, static.New(static.Profile{Name: "house", UID: 4000, GID: 4001, InboundPort: 16006, OutboundPort: 16001, DNSPort: 16053,
			InboundExclude: ports, OutboundExclude: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, ExemptUIDs: []uint32{5000}, TProxy: true, ProxyIPv6: true}),
			pod(nil, nil)),
	} {
		for _, rs := range plan.Rulesets() {
			if rs.Empty() {
				continue
			}
			s := subject{name, plan, rs.Family, both}
			worlds := worldsOf(t, s)
			for _, m := range Mutants(s.rules()) {
				total++
				answer := judged(t, s, worlds, m)
				told := slices.ContainsFunc(worlds, func(w world) bool { return w.tells(s.with(m.Rules), m) })
				if told && answer == effect.Equal || answer == effect.CannotTell {
					t.Errorf("%s %s: %s: %s, told by a witness: %t", name, s.family, m, answer, told)
				}
			}
		}
	}
	if total < 400 {
		t.Errorf("only %d mutants", total)
	}
}

// endsElsewhere reports whether any witness ends elsewhere, whatever it leaves behind: a mark that no rule asks for is none.
func endsElsewhere(worlds []world, mutated rules.Plan) bool {
	return slices.ContainsFunc(worlds, func(w world) bool {
		tracer := effect.NewTracer(mutated, w.interfaces)
		for i, p := range w.packets {
			end, err := tracer.End(p)
			if err != nil || end.Kind != w.ends[i].Kind || end.Port != w.ends[i].Port {
				return true
			}
		}
		return false
	})
}

func worldsOf(t *testing.T, s subject) []world {
	t.Helper()
	worlds, _, err := s.worlds()
	if err != nil {
		t.Fatal(err)
	}
	return worlds
}

// judged returns how a mutant compares with the plan. Where a packet is shown, it must end elsewhere.
func judged(t *testing.T, s subject, worlds []world, m Mutant) (answer effect.Answer) {
	t.Helper()
	mutated := s.with(m.Rules)
	for _, w := range worlds {
		pod := effect.NewPod(w.interfaces)
		r := effect.Compare(pod, effect.OfPlan(pod, s.plan, s.family), effect.OfPlan(pod, mutated, s.family))
		answer = max(answer, r.Answer)
		before, after := effect.NewTracer(s.plan, w.interfaces), effect.NewTracer(mutated, w.interfaces)
		for _, d := range r.Differences {
			if d.Followed || d.Away {
				continue
			}
			was, err := before.Trace(d.Witness)
			if err != nil {
				t.Fatal(err)
			}
			if now, err := after.Trace(d.Witness); err == nil && was.End == now.End {
				t.Errorf("%s %s: %s: not so: %s\n%s", s.name, s.family, m, d, now)
			}
		}
	}
	return answer
}
