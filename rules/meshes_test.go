// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

// What the tracer makes of what Istio's rules do not have.
func TestTraceOtherMeshes(t *testing.T) {
	user := func(id uint32) func(*rules.Packet) { return func(p *rules.Packet) { p.UID = id } }
	for name, tt := range map[string]struct {
		rules  []string
		packet rules.Packet
		want   string // how the packet ends, or what the error ends with
	}{
		"dnat to a listener":     {[]string{"nat OUTPUT: -p udp -j DNAT --to-destination 127.0.0.1:8600"}, sentTo("127.0.0.1:53", udp), "redirected to port 8600, original destination 127.0.0.1:53"},
		"dnat elsewhere":         {[]string{"nat OUTPUT: -j DNAT --to-destination 10.0.0.10"}, sentTo("10.96.0.10:53"), "leaves for 10.0.0.10:53 by eth0"},
		"dnat of what comes in":  {[]string{"nat PREROUTING: -p tcp -j DNAT --to-destination 10.244.1.7:81"}, toPod("10.244.1.7:80"), "redirected to port 81, original destination 10.244.1.7:80"},
		"dnat at the end":        {[]string{"nat POSTROUTING: -j DNAT --to-destination 10.0.0.10"}, sentTo("10.96.0.10:53"), "the kernel refuses this target in table nat at POSTROUTING"},
		"dnat in mangle":         {[]string{"mangle OUTPUT: -j DNAT --to-destination 10.0.0.10"}, sentTo("10.96.0.10:53"), "the kernel refuses this target in table mangle at OUTPUT"},
		"dnat to another family": {[]string{"nat OUTPUT: -j DNAT --to-destination ::1"}, sentTo("10.96.0.10:53"), "the kernel refuses ::1, which is of the other family"},
		"users":                  {[]string{"filter OUTPUT: -m owner --uid-owner 1001-1005 -j DROP"}, sentTo("198.51.100.1:80", user(1005)), "dropped"},
		"before the users":       {[]string{"filter OUTPUT: -m owner --uid-owner 1001-1005 -j DROP"}, sentTo("198.51.100.1:80", user(1000)), "leaves for 198.51.100.1:80 by eth0"},
		"behind the users":       {[]string{"filter OUTPUT: -m owner --uid-owner 1001-1005 -j DROP"}, sentTo("198.51.100.1:80", user(1006)), "leaves for 198.51.100.1:80 by eth0"},
		"no user":                {[]string{"filter OUTPUT: -m owner --uid-owner 0-1005 -j DROP"}, sentTo("198.51.100.1:80", noSocket), "leaves for 198.51.100.1:80 by eth0"},
		"users inbound":          {[]string{"filter INPUT: -m owner --uid-owner 0-5 -j DROP"}, toPod("10.244.1.7:80"), "the kernel refuses an owner at INPUT"},
		"one of the ports":       {[]string{"filter OUTPUT: -p tcp -m multiport --dports 22,80:90 -j DROP"}, sentTo("198.51.100.1:90"), "dropped"},
		"none of the ports":      {[]string{"filter OUTPUT: -p tcp -m multiport --dports 22,80:90 -j DROP"}, sentTo("198.51.100.1:91"), "leaves for 198.51.100.1:91 by eth0"},
		"a comment":              {[]string{"filter OUTPUT: -m comment --comment a/b -j DROP", `filter OUTPUT: -m comment --comment "a/b" -j DROP`}, sentTo("198.51.100.1:91"), "a rule of somebody else decides here: it cannot be known how"},
		"our comment":            {[]string{`filter OUTPUT: -m comment --comment "a/b" -j DROP`}, sentTo("198.51.100.1:91"), "dropped"},
	} {
		t.Run(name, func(t *testing.T) {
			path, err := effect.Trace(traced(t, rules.IPv4, tt.rules...), tt.packet, podInterfaces)
			got := path.End.String()
			if err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, tt.want) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// Rules without a chain or mark of ours are known by their comments: they go with the plan, and those of others that
// look the same but for that stay.
func TestCommentsTellOurRules(t *testing.T) {
	ours := rules.Footprint{Comments: []string{"our/"}}
	var b rules.Builder
	b.Append("raw", "OUTPUT", "", rules.CTZone(1), rules.Protocol(rules.UDP), rules.Comment("our/one"))
	b.Append("raw", "OUTPUT", "", rules.CTZone(2), rules.Protocol(rules.UDP), rules.Comment("our/two"))
	plan := b.Ruleset(rules.IPv4)
	k := newKernel(rules.IPv4)
	theirs := []string{`raw OUTPUT -p udp -m comment --comment "their/one" -j CT --zone 1`, "raw OUTPUT -p udp -j CT --zone 2"}
	if err := k.restore("*raw\n-A OUTPUT -p udp -m comment --comment \"their/one\" -j CT --zone 1\n-A OUTPUT -p udp -j CT --zone 2\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		k.apply(t, plan, ours)
		k.holds(t, plan, ours)
		want := append([]string{`raw OUTPUT -p udp -m comment --comment "our/one" -j CT --zone 1`, `raw OUTPUT -p udp -m comment --comment "our/two" -j CT --zone 2`}, theirs...)
		if diff := cmp.Diff(want, k.lines()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
	k.apply(t, rules.Ruleset{}, ours)
	if diff := cmp.Diff(theirs, k.lines()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

// No mesh takes another one's rules for its own, but for those that are no mesh's: what resets IPv6.
func TestFootprintsAreApart(t *testing.T) {
	seen := map[string]string{}
	for _, m := range []rules.Mesh{istio.New(istio.Defaults{}), consul.New(consul.Defaults{}), kuma.New(kuma.Defaults{}), linkerd.New(linkerd.Defaults{})} {
		f := m.Footprint()
		for _, chain := range f.Chains {
			if strings.HasPrefix(chain, "MESHNETD_IPV6_") {
				continue
			}
			if other := seen[chain]; other != "" {
				t.Errorf("%s and %s both have chain %s", other, m.Name(), chain)
			}
			seen[chain] = m.Name()
		}
		if seen["name "+m.Name()] != "" || m.Refines("linkerd-proxy") || m.Refines("kuma-sidecar") || m.Refines("consul-dataplane") {
			t.Errorf("%s", m.Name())
		}
		seen["name "+m.Name()] = m.Name()
	}
}

func TestFamilies(t *testing.T) {
	one := func(family rules.Family) rules.Ruleset {
		var b rules.Builder
		b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 1}, rules.Protocol(rules.TCP))
		return b.Ruleset(family)
	}
	reset := func() rules.Ruleset {
		return rules.Block(rules.Blocked{Captured: []rules.Selection{{}}}, rules.Blocked{})
	}
	in := func(texts ...string) (n rules.Network) {
		for _, text := range texts {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(text))
		}
		return n
	}
	for name, tt := range map[string]struct {
		network rules.Network
		speaks  bool
		without rules.WithoutIPv6
		want    string // of IPv6: "", redirect or reset
		note    string
	}{
		"unknown":                  {rules.Network{}, true, rules.IPv6Mesh, "redirect", "not known yet"},
		"unknown, reset":           {rules.Network{}, false, rules.IPv6Block, "reset", "IPv6 is refused"},
		"unknown, around":          {rules.Network{}, false, rules.IPv6Mesh, "", "not known yet"},
		"no address yet, spoken":   {in("10.0.0.7"), true, rules.IPv6Mesh, "redirect", ""},
		"no address yet":           {in("10.0.0.7", "::1"), false, rules.IPv6Mesh, "", ""},
		"no address yet, captured": {in("10.0.0.7"), false, rules.IPv6Capture, "redirect", "IPv6 is captured although"},
		"no address yet, reset":    {in("::ffff:10.0.0.7"), false, rules.IPv6Block, "reset", "IPv6 is refused: the proxy speaks only IPv4 (it says so)"},
		"none in the kernel":       {rules.Network{Addresses: in("10.0.0.7").Addresses, NoIPv6: true}, false, rules.IPv6Block, "", ""},
		"none, spoken":             {rules.Network{Addresses: in("10.0.0.7").Addresses, NoIPv6: true}, true, rules.IPv6Mesh, "", ""},
		"link-local":               {in("10.0.0.7", "fe80::1%eth0"), false, rules.IPv6Mesh, "", "IPv6 goes around the mesh: the pod has fe80::1, the proxy"},
		"link-local and global":    {in("10.0.0.7", "fe80::1", "fd00::7"), false, rules.IPv6Mesh, "", "IPv6 goes around the mesh: the pod has fd00::7"},
		"ours on lo":               {in("10.0.0.7", "::6"), false, rules.IPv6Mesh, "", ""},
		"spoken":                   {in("10.0.0.7", "fd00::7"), true, rules.IPv6Block, "redirect", ""},
		"IPv6 only, spoken":        {in("fd00::7"), true, rules.IPv6Block, "redirect", ""},
		"IPv6 only, unspoken":      {in("fd00::7"), false, rules.IPv6Block, "reset", "IPv6 is refused: the proxy speaks only IPv4"},
		"around":                   {in("fd00::7", "10.0.0.7"), false, rules.IPv6Mesh, "", "IPv6 goes around the mesh: the pod has fd00::7, the proxy speaks only IPv4 (it says so)"},
		"captured":                 {in("10.0.0.7", "fd00::7"), false, rules.IPv6Capture, "redirect", "IPv6 is captured although"},
		"reset":                    {in("10.0.0.7", "fd00::7"), false, rules.IPv6Block, "reset", "IPv6 is refused"},
		"nobody says":              {in("10.0.0.7", "fd00::7"), false, "", "", "IPv6 goes around the mesh"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := rules.Families{Redirect: one, Block: reset, SpeaksIPv6: tt.speaks, Because: "it says so", Without: tt.without,
				Loopback: []netip.Prefix{prefix("::6/128")}, Unblocked: "not all"}.Planner(rules.Footprint{Loopback: []netip.Prefix{prefix("::6/128")}})(tt.network)
			if err != nil {
				t.Fatal(err)
			}
			got := map[bool]string{true: "redirect"}[len(p.V6.Table("nat").Chains) > 0] + map[bool]string{true: "reset"}[len(p.V6.Table("filter").Chains) > 0]
			notes := strings.Join(p.Notes, "; ")
			if got != tt.want || p.V4.String() != one(rules.IPv4).String() || !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
				t.Errorf("IPv6 %q, want %q; notes %q, want %q", got, tt.want, notes, tt.note)
			}
			way := rules.WithoutIPv6("")
			if strings.HasPrefix(tt.note, "IPv6 is") || strings.Contains(tt.note, "around") {
				way = tt.without
			}
			if name == "nobody says" {
				way = rules.IPv6Mesh
			}
			if p.WithoutIPv6 != way {
				t.Errorf("IPv6 that the proxy does not speak: %q, want %q", p.WithoutIPv6, way)
			}
			if (len(p.Loopback) > 0) != (tt.want == "redirect") || strings.Contains(notes, "not all") != (tt.want == "reset") {
				t.Errorf("loopback %v, notes %q", p.Loopback, notes)
			}
		})
	}
	if _, err := (rules.Families{Redirect: one}).Planner(rules.Footprint{})(in("fe80::1")); err == nil {
		t.Error("a pod that nobody can reach has a plan")
	}
}

// A plan puts an address on lo only where lo takes one, and a plan that was read says what it leaves alone.
func TestNetwork(t *testing.T) {
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 1}, rules.Protocol(rules.TCP))
	six := rules.Footprint{Loopback: []netip.Prefix{prefix("::6/128")}}
	four, link := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fe80::7")
	f := rules.Families{Redirect: b.Ruleset, SpeaksIPv6: true, Loopback: six.Loopback}
	p, err := f.Planner(six)(rules.Network{Addresses: []netip.Addr{four}, NoIPv6OnLo: true})
	if err != nil || len(p.Loopback) > 0 || p.V6.Empty() {
		t.Errorf("without IPv6 on lo: %v, %v\n%s", p.Loopback, err, p.V6)
	}
	bare := rules.Plan{V4: p.V4, Footprint: six}
	for name, tt := range map[string]struct {
		plan    rules.Plan
		network rules.Network
		want    rules.WithoutIPv6
	}{
		"link-local":     {bare, rules.Network{Addresses: []netip.Addr{four, link}}, rules.IPv6Mesh},
		"none":           {bare, rules.Network{Addresses: []netip.Addr{four, netip.MustParseAddr("::6")}}, ""},
		"no IPv6":        {bare, rules.Network{Addresses: []netip.Addr{four, link}, NoIPv6: true}, ""},
		"rules for IPv6": {p, rules.Network{Addresses: []netip.Addr{four, link}}, ""},
	} {
		if got := tt.plan.WithIPv6Around(tt.network); got.WithoutIPv6 != tt.want || (len(got.Notes) > 0) != (tt.want != "") {
			t.Errorf("%s: %q, %q", name, got.WithoutIPv6, got.Notes)
		}
	}
}

// An answer is let pass in either direction, and what stays in the pod.
func TestBlock(t *testing.T) {
	all := rules.Blocked{Captured: []rules.Selection{{}}}
	plan := rules.Plan{V6: rules.Block(all, all)}
	for name, tt := range map[string]struct {
		packet rules.Packet
		want   rules.EndKind
	}{
		"out":        {sentTo("[2001:db8::9]:80"), rules.Refused},
		"in":         {toPod("[fd00::7]:80"), rules.Refused},
		"answer out": {sentTo("[2001:db8::9]:80", state(established)), rules.Leaves},
		"answer in":  {toPod("[fd00::7]:80", state(established)), rules.Delivered},
		"within":     {sentTo("[fd00::7]:80"), rules.Delivered},
		"UDP":        {sentTo("[2001:db8::9]:80", udp), rules.Leaves},
	} {
		if path, err := effect.Trace(plan, tt.packet, podInterfaces); err != nil || path.End.Kind != tt.want {
			t.Errorf("%s: %v, %v\n%s", name, path.End, err, path)
		}
	}
	if rs := rules.Block(rules.Blocked{}, rules.Blocked{Kept: []rules.Selection{{}}}); !rs.Empty() {
		t.Errorf("where nothing is captured: %s", rs)
	}
}
