// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

var addresses = meshtest.Addresses("10.99.0.2", "fd00:99::2")

var interfaces = []rules.Interface{{Name: "eth0", Addresses: addresses}}

func istioPlan(t testing.TB, annotations ...string) rules.Plan {
	t.Helper()
	pod := rules.Pod{Namespace: "shop", Name: "web", IPs: addresses, Annotations: map[string]string{
		"sidecar.istio.io/status": `{"initContainers":["istio-validation","istio-proxy"],"containers":null}`}, Containers: []rules.Container{
		{Name: "istio-validation"}, {Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}}}
	for i := 0; i+1 < len(annotations); i += 2 {
		if strings.HasPrefix(annotations[i], "ISTIO_") { // of the proxy's environment
			pod.Containers[1].Env = map[string]string{annotations[i]: annotations[i+1]}
			continue
		}
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return meshtest.Plan(t, istio.New(istio.Standard()), pod)
}

// edited returns a plan with the lines of its IPv4 tables changed, as iptables-save prints them: "-A CHAIN ...".
func edited(t testing.TB, plan rules.Plan, edit func(string) string) rules.Plan {
	t.Helper()
	var text strings.Builder
	for _, table := range plan.V4.Tables {
		fmt.Fprintf(&text, "*%s\n", table.Name)
		for _, c := range table.Chains {
			fmt.Fprintf(&text, ":%s %s\n", c.Name, map[bool]string{true: "ACCEPT", false: "-"}[c.Builtin])
		}
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				fmt.Fprintf(&text, "-A %s %s\n", c.Name, r)
			}
		}
		text.WriteString("COMMIT\n")
	}
	changed := edit(text.String())
	if changed == text.String() {
		t.Fatalf("the edit does nothing to\n%s", changed)
	}
	var err error
	if plan.V4, err = rules.ParseSave(rules.IPv4, strings.NewReader(changed)); err != nil {
		t.Fatal(err)
	}
	return plan
}

func compared(plan, have rules.Plan) effect.Result {
	pod := effect.NewPod(interfaces)
	return effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), effect.OfPlan(pod, have, rules.IPv4))
}

// What a change of rules means, with the packet that shows it.
func TestChanges(t *testing.T) {
	plan := istioPlan(t, "traffic.sidecar.istio.io/excludeInboundPorts", "15020,15090")
	replace := func(from, to string) func(string) string {
		return func(s string) string { return strings.ReplaceAll(s, from, to) }
	}
	before := func(line, more string) func(string) string { return replace(line+"\n", more+"\n"+line+"\n") }
	table := func(text string) func(string) string { return func(s string) string { return s + text } }
	const jump, capture = "-A OUTPUT -j ISTIO_OUTPUT", "-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT"
	for name, tt := range map[string]struct {
		edit func(string) string
		want effect.Answer
		says string // of the first difference
	}{
		"a comment on a rule": {replace(capture, "-A ISTIO_INBOUND -p tcp -m comment --comment x -j ISTIO_IN_REDIRECT"), effect.Equal, ""},
		"ports swapped": {func(s string) string {
			return strings.NewReplacer("INBOUND -p tcp -m tcp --dport 15020", "INBOUND -p tcp -m tcp --dport 15090", "INBOUND -p tcp -m tcp --dport 15090", "INBOUND -p tcp -m tcp --dport 15020").Replace(s)
		}, effect.Equal, ""},
		"a chain with another name":     {replace("ISTIO_IN_REDIRECT", "OTHER_IN"), effect.Equal, ""},
		"ports by multiport":            {replace("-A ISTIO_INBOUND -p tcp -m tcp --dport 15020 -j RETURN\n", "-A ISTIO_INBOUND -p tcp -m multiport --dports 15020,15090 -j RETURN\n"), effect.Equal, ""},
		"a redirect without a jump":     {replace("-A ISTIO_OUTPUT -j ISTIO_REDIRECT", "-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 15001"), effect.Equal, ""},
		"a mark in mangle":              {table("*mangle\n:OUTPUT ACCEPT\n-A OUTPUT -p tcp -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n"), effect.Equal, ""},
		"an accept before ours":         {before(jump, "-A OUTPUT -p tcp -m tcp --dport 443 -j ACCEPT"), effect.Less, "tcp 198.51.100.1:40000 to 203.0.113.9:443 of uid 1000 gid 1000: the plan gives it to port 15001, the kernel lets it leave"},
		"a user let out":                {before("-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN", "-A ISTIO_OUTPUT -m owner --uid-owner 1000 -j RETURN"), effect.Less, "of uid 1000"},
		"a range let in":                {before(capture, "-A ISTIO_INBOUND -s 10.99.0.0/24 -j RETURN"), effect.Less, "the kernel delivers it to"},
		"another port":                  {replace("--to-ports 15001", "--to-ports 15011"), effect.Less, "the kernel gives it to port 15011"},
		"nothing is left":               {func(string) string { return "" }, effect.Less, ""},
		"an unknown target":             {before(jump, "-A OUTPUT -p tcp -j TARPIT"), effect.CannotTell, "cannot be known"},
		"an unknown condition":          {before(jump, "-A OUTPUT -m quota --quota 5 -j ACCEPT"), effect.CannotTell, ""},
		"an unknown condition at last":  {replace("-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n", "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n-A OUTPUT -p udp -m quota --quota 5 -j ACCEPT\n"), effect.More, ""},
		"an excluded port is captured":  {replace("-A ISTIO_INBOUND -p tcp -m tcp --dport 15090 -j RETURN\n", ""), effect.More, "the plan delivers it to"},
		"dropped by filter":             {table("*filter\n:OUTPUT ACCEPT\n-A OUTPUT -p tcp -m tcp --dport 25 -j DROP\nCOMMIT\n"), effect.More, "the kernel drops it"},
		"translated by somebody before": {before(jump, "-A OUTPUT -p tcp -m tcp --dport 443 -j DNAT --to-destination 203.0.113.1"), effect.Less, "for 203.0.113.1:443"},
	} {
		t.Run(name, func(t *testing.T) {
			r := compared(plan, edited(t, plan, tt.edit))
			if r.Answer != tt.want {
				t.Fatalf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
			if tt.says != "" && (len(r.Differences) == 0 || !strings.Contains(r.Differences[0].String(), tt.says)) {
				t.Errorf("got %v, want %q", r.Differences, tt.says)
			}
		})
	}
}

// Base chains of others beside the plan's, whatever wrote them.
func TestOthersBeside(t *testing.T) {
	plan := istioPlan(t)
	tcp443 := []effect.Condition{{Field: effect.Protocol, Set: effect.Single(effect.N(6))}, {Field: effect.DestinationPort, Set: effect.Single(effect.N(443))}}
	elsewhere := effect.Action{Verb: effect.DNAT, Value: effect.Address(netip.MustParseAddr("203.0.113.1"))}
	for name, tt := range map[string]struct {
		base effect.Base
		want effect.Answer
	}{
		"nat that accepts, first":      {effect.Base{Hook: effect.Output, Kind: effect.NAT, Priority: -110, Chain: &effect.Chain{Rules: []effect.Rule{{Actions: []effect.Action{{Verb: effect.Accept}}}}}}, effect.Equal},
		"nat that translates, first":   {effect.Base{Hook: effect.Output, Kind: effect.NAT, Priority: -110, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: tcp443, Actions: []effect.Action{elsewhere}}}}}, effect.Less},
		"nat that translates, last":    {effect.Base{Hook: effect.Output, Kind: effect.NAT, Priority: -90, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: tcp443, Actions: []effect.Action{elsewhere}}}}}, effect.More},
		"nat of the same priority":     {effect.Base{Hook: effect.Output, Kind: effect.NAT, Priority: -100, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: tcp443, Actions: []effect.Action{elsewhere}}}}}, effect.CannotTell},
		"notrack early":                {effect.Base{Hook: effect.Output, Priority: -350, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: tcp443, Actions: []effect.Action{{Verb: effect.NoTrack}}}}}}, effect.Less},
		"notrack too late":             {effect.Base{Hook: effect.Output, Priority: -150, Chain: &effect.Chain{Rules: []effect.Rule{{Conditions: tcp443, Actions: []effect.Action{{Verb: effect.NoTrack}}}}}}, effect.Equal},
		"something unknown that drops": {effect.Base{Hook: effect.Output, Priority: 0, Chain: &effect.Chain{Rules: []effect.Rule{{Unknown: "limit", Actions: []effect.Action{{Verb: effect.Drop}}}}}}, effect.More},
		"a policy of drop":             {effect.Base{Hook: effect.Input, Priority: 0, Drop: true, Chain: &effect.Chain{}}, effect.More},
		"an unknown that redirects":    {effect.Base{Hook: effect.Output, Kind: effect.NAT, Priority: -110, Chain: &effect.Chain{Rules: []effect.Rule{{Unknown: "time", Actions: []effect.Action{{Verb: effect.Redirect, Port: 9}}}}}}, effect.CannotTell},
	} {
		t.Run(name, func(t *testing.T) {
			pod := effect.NewPod(interfaces)
			have := effect.OfPlan(pod, plan, rules.IPv4)
			have.Add(tt.base)
			if r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), have); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// Packets of no connection, which a plan drops, are some of another kind where somebody says so before, even after the kernel has
// looked for their connection.
func TestPacketsOfNoConnection(t *testing.T) {
	var b rules.Builder
	b.Append("mangle", "OUTPUT", "", rules.Drop, rules.InState(rules.StateInvalid))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	for verb, want := range map[effect.Verb]effect.Answer{effect.NoTrack: effect.Less, effect.Zone: effect.CannotTell, effect.SetConnMark: effect.Equal} {
		pod := effect.NewPod(interfaces)
		have := effect.OfPlan(pod, plan, rules.IPv4)
		have.Add(effect.Base{Hook: effect.Output, Priority: -190, Chain: &effect.Chain{Rules: []effect.Rule{{Actions: []effect.Action{{Verb: verb}}}}}})
		if r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), have); r.Answer != want {
			t.Errorf("verb %d: got %s, want %s: %v", verb, r.Answer, want, r.Differences)
		}
	}
}

// Ranges that end before they begin have nothing, and hide no other: eight are looked through in another way than a few.
func TestBackwardRanges(t *testing.T) {
	backward := effect.Span{First: effect.N(150), Last: effect.N(5)}
	spans := []effect.Span{backward}
	for i := range uint64(12) {
		spans = append(spans, effect.Span{First: effect.N(100 + 10*i), Last: effect.N(104 + 10*i)})
	}
	all := effect.Union(spans...)
	for i := range uint64(12) {
		if one := effect.Single(effect.N(102 + 10*i)); all.And(one).Empty() {
			t.Errorf("%d is not there", 102+10*i)
		}
	}
	if !effect.Union(backward).Empty() || !effect.Between(150, 5).Empty() {
		t.Error("a backward range has something")
	}
}

// Istio's native TPROXY lets packets to the app while the proxy does not listen, iptables' drops them.
func TestWhileTheProxyIsAway(t *testing.T) {
	plan := istioPlan(t, "sidecar.istio.io/interceptionMode", "TPROXY")
	pod := effect.NewPod(interfaces)
	have := effect.OfPlan(pod, plan, rules.IPv4)
	var soften func(c *effect.Chain)
	soften = func(c *effect.Chain) {
		for i, r := range c.Rules {
			for _, a := range r.Actions {
				switch {
				case a.Verb == effect.TProxy:
					a.Stops = false
					c.Rules[i].Actions = []effect.Action{a, {Verb: effect.SetMark, Value: a.Value}, {Verb: effect.Accept}}
				case a.Chain != nil:
					soften(a.Chain)
				}
			}
		}
	}
	for _, b := range have.Bases() {
		soften(b.Chain)
	}
	r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), have)
	if r.Answer != effect.LessWhileAway || !strings.Contains(r.Differences[0].String(), "while the proxy does not listen") {
		t.Errorf("got %s: %v", r.Answer, r.Differences)
	}
}

// Work beyond the limit is given up: jumps in jumps in jumps, ten in each of sixteen chains.
func TestTooMuchWork(t *testing.T) {
	plan := istioPlan(t)
	have := plan
	filter := rules.Table{Name: "filter", Chains: []rules.Chain{{Name: "OUTPUT", Builtin: true, Rules: []rules.Rule{{Target: rules.Jump("C0")}}}}}
	for i := range 14 {
		c := rules.Chain{Name: fmt.Sprint("C", i)}
		for k := range 10 {
			next := rules.Jump(fmt.Sprint("C", i+1))
			c.Rules = append(c.Rules, rules.Rule{Match: []rules.Match{rules.Protocol("tcp"), rules.DestinationPort("tcp", uint16(1000+k))}, Target: next},
				rules.Rule{Match: []rules.Match{rules.Source(netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", k)))}, Target: next})
		}
		filter.Chains = append(filter.Chains, c)
	}
	filter.Chains = append(filter.Chains, rules.Chain{Name: "C14", Rules: []rules.Rule{{Match: []rules.Match{rules.Protocol("tcp")}, Target: rules.SetMark(7)}}})
	have.V4.Tables = append(slices.Clone(have.V4.Tables), filter)
	if r := compared(plan, have); r.Answer != effect.CannotTell || r.Work < effect.MaxWork || r.Work > 2*effect.MaxWork {
		t.Errorf("got %s after %d steps", r.Answer, r.Work)
	}
}

// A pod that has its address on lo and no interface yet.
func TestOnlyLoopback(t *testing.T) {
	plan := istioPlan(t)
	pod := effect.NewPod([]rules.Interface{{Name: "lo", Addresses: addresses}})
	have := edited(t, plan, func(s string) string {
		return strings.Replace(s, "-A OUTPUT -j ISTIO_OUTPUT", "-A OUTPUT -p tcp -m tcp --dport 443 -j ACCEPT\n-A OUTPUT -j ISTIO_OUTPUT", 1)
	})
	if r := effect.Compare(pod, effect.OfPlan(pod, plan, rules.IPv4), effect.OfPlan(pod, have, rules.IPv4)); r.Answer != effect.Less {
		t.Errorf("got %s", r.Answer)
	}
}

// manyPorts is the plan of a pod by TPROXY with DNS that leaves out 40 ports each way.
func manyPorts(t testing.TB) rules.Plan {
	var ports []string
	for i := range 40 {
		ports = append(ports, fmt.Sprint(3000+7*i))
	}
	return istioPlan(t, "sidecar.istio.io/interceptionMode", "TPROXY",
		"ISTIO_META_DNS_CAPTURE", "true",
		"traffic.sidecar.istio.io/excludeInboundPorts", strings.Join(ports, ","),
		"traffic.sidecar.istio.io/excludeOutboundPorts", strings.Join(ports, ","))
}

// Packets that are treated alike stay together: where they do not, there are half as many sets again.
func TestCostOfCompare(t *testing.T) {
	const most = 8000
	plan := manyPorts(t)
	if allocations := testing.AllocsPerRun(3, func() { compared(plan, plan) }); allocations > most {
		t.Errorf("%.0f allocations, at most %d", allocations, most)
	}
}

func BenchmarkCompare(b *testing.B) {
	many := edited(b, istioPlan(b), func(text string) string {
		const first = "-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN\n"
		var ranges strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&ranges, "-A ISTIO_OUTPUT -d %d.%d.%d.0/24 -j RETURN\n", 20+i%50, i/4%256, i*7%256)
		}
		return strings.Replace(text, first, first+ranges.String(), 1)
	})
	for name, plan := range map[string]rules.Plan{
		"default":               istioPlan(b),
		"tproxy, dns, 40 ports": manyPorts(b),
		"1000 ranges":           many,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := compared(plan, plan); r.Answer != effect.Equal {
					b.Fatal(r.Answer)
				}
			}
		})
	}
}

// Whoever has NET_ADMIN in a pod chooses how many names of interfaces rules have, and how many patterns of them: each is found by
// itself, and each pattern's interfaces once.
func TestThousandsOfInterfaces(t *testing.T) {
	pod := effect.NewPod([]rules.Interface{{Name: "eth0"}})
	const names = 16 << 10
	for i := range names {
		if name := fmt.Sprintf("%c%d", 'a'+i%2, i); pod.Interface(name).Empty() {
			t.Fatal(name)
		}
	}
	first := pod.Prefixed("a")
	if again := testing.AllocsPerRun(1, func() { first = pod.Prefixed("a") }); again > 0 || first.Empty() {
		t.Errorf("the same pattern takes %v pieces again", again)
	}
}
