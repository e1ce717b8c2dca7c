// SPDX-License-Identifier: Apache-2.0

package consul_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	declared "github.com/meshnetd/meshnetd/rules/mesh"
)

const (
	app   = 1000
	proxy = 5995
	extra = 5996
)

type (
	scene  = meshtest.Scene
	packet = rules.Packet
)

var excluded = map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("192.0.2.1"), rules.IPv6: netip.MustParseAddr("2001:db8:1::1")}

const busy = `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ExcludeInboundPorts":["20200","7000:7010"],"ExcludeOutboundPorts":["3306"],
	"ExcludeOutboundCIDRs":["192.0.2.0/24","2001:db8:1::/48"],"ExcludeUIDs":["5996"],"ConsulDNSPort":8600}`

func classes(lookups string) []meshtest.Class {
	return []meshtest.Class{
		{Name: "app to outside", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: "redirected 15001"},
		{Name: "app to outside, excluded port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: "leaves 3306"},
		{Name: "app to an excluded range", Packet: func(s scene) packet { return s.Sent(app, "tcp", excluded[s.Family], 80) }, Want: "leaves 80"},
		{Name: "proxy to outside", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
		{Name: "excluded user to outside", Packet: func(s scene) packet { return s.Sent(extra, "tcp", s.Outside, 80) }, Want: "leaves 80"},
		{Name: "app to loopback", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Loopback, 8080) }, Want: "delivered 8080"},
		{Name: "app to its own address", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "redirected 15001"},
		{Name: "proxy to its own address", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
		{Name: "inbound", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: "redirected 20000"},
		{Name: "inbound, excluded port", Packet: func(s scene) packet { return s.Received("tcp", 20200) }, Want: "delivered 20200"},
		{Name: "inbound, excluded range", Packet: func(s scene) packet { return s.Received("tcp", 7010) }, Want: "delivered 7010"},
		{Name: "app's lookup at loopback", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Loopback, 53) }, Want: lookups},
		{Name: "app's lookup at loopback by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Loopback, 53) }, Want: lookups},
		{Name: "proxy's lookup at loopback", Packet: func(s scene) packet { return s.Sent(proxy, "udp", s.Loopback, 53) }, Want: lookups},
		{Name: "app's lookup elsewhere", Packet: func(s scene) packet { return s.Sent(app, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
		{Name: "app's lookup elsewhere by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 53) }, Want: "redirected 15001"},
		{Name: "UDP out", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 443) }, Want: "leaves 443"},
		{Name: "UDP in", Packet: func(s scene) packet { return s.Received("udp", 8080) }, Want: "delivered 8080"},
	}
}

func TestClasses(t *testing.T) {
	plan := meshtest.Plan(t, mesh, injected(busy))
	meshtest.Classes(t, plan, classes("redirected 8600"), rules.IPv4)
	dual := meshtest.Plan(t, mesh, injected(busy, "dual-stack", "true"))
	if len(dual.Notes) > 0 {
		t.Errorf("notes: %q", dual.Notes)
	}
	meshtest.Classes(t, dual, classes("redirected 8600"), rules.IPv6)
	meshtest.Classes(t, dual, classes("delivered 53"), rules.IPv4) // whose lookups Consul leaves alone then
}

// An address of Consul's DNS without a port is asked in place of any other.
func TestLookupsByAddress(t *testing.T) {
	plan := meshtest.Plan(t, mesh, injected(minimal(`,"ConsulDNSIP":"10.0.0.10"`)))
	for _, s := range meshtest.Scenes[:1] {
		for _, protocol := range []string{"udp", "tcp"} {
			path, err := effect.Trace(plan, s.Sent(app, protocol, s.DNSAddr, 53), meshtest.Interfaces())
			if err != nil || path.End.Kind != rules.Leaves || path.End.To.String() != "10.0.0.10:53" {
				t.Errorf("%v, %v\n%s", path.End, err, path)
			}
		}
	}
}

func TestIPv6(t *testing.T) {
	for _, tt := range []struct {
		without           rules.WithoutIPv6
		out, in, own, not string
		note              string
	}{
		{rules.IPv6Mesh, "leaves 80", "delivered 8080", "delivered 8080", "leaves 3306", `IPv6 goes around the mesh: the pod has fd00:10:244::7`},
		{rules.IPv6Capture, "redirected 15001", "redirected 20000", "redirected 15001", "leaves 3306", "IPv6 is captured although the proxy speaks only IPv4"},
		{rules.IPv6Block, "refused", "refused", "delivered 8080", "leaves 3306", "IPv6 is refused: the proxy speaks only IPv4"},
	} {
		t.Run(string(tt.without), func(t *testing.T) {
			m := consul.New(consul.Defaults{Common: declared.Common{WithoutIPv6: tt.without}})
			plan := meshtest.Plan(t, m, injected(busy))
			if plan.WithoutIPv6 != tt.without {
				t.Errorf("IPv6 that the proxy does not speak: %q", plan.WithoutIPv6)
			}
			if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], tt.note) || !strings.Contains(plan.Notes[0], prefix+"dual-stack") {
				t.Errorf("notes: %q", plan.Notes)
			}
			meshtest.Classes(t, plan, []meshtest.Class{
				{Name: "out", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: tt.out},
				{Name: "in", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: tt.in},
				{Name: "own", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: tt.own},
				{Name: "excluded port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: tt.not},
				{Name: "excluded range", Packet: func(s scene) packet { return s.Sent(app, "tcp", excluded[s.Family], 80) }, Want: "leaves 80"},
				{Name: "excluded inbound", Packet: func(s scene) packet { return s.Received("tcp", 20200) }, Want: "delivered 20200"},
				{Name: "proxy", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
				{Name: "excluded user", Packet: func(s scene) packet { return s.Sent(extra, "tcp", s.Outside, 80) }, Want: "leaves 80"},
				{Name: "udp", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 80) }, Want: "leaves 80"},
				{Name: "lookup", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Loopback, 53) }, Want: "delivered 53"},
			}, rules.IPv6)
			meshtest.Classes(t, plan, classes("redirected 8600"), rules.IPv4)
		})
	}
}

// What becomes of a packet, in the words of Consul's documentation. Any settings, any packet; a failure names its seed.
func TestInvariants(t *testing.T) {
	for _, seed := range sample.Seeds(t, 100, 600) {
		random := rand.New(rand.NewPCG(seed, 0))
		m, pod := draw(random)
		plan := meshtest.Plan(t, m, pod)
		in := m.Decide(pod).Intent.(consul.Intent)
		meshtest.Check(t, m, pod)
		for range 60 {
			s := meshtest.Scenes[random.IntN(2)]
			p := drawPacket(random, s, in)
			path, err := effect.Trace(plan, p, meshtest.Interfaces())
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got, want := meshtest.End(path.End), expected(in, s, p); got != want {
				t.Fatalf("seed %d: %s, want %s\n%+v\n%s", seed, got, want, in, path)
			}
		}
	}
}

func expected(in consul.Intent, s scene, p packet) string {
	port := p.Destination.Port()
	contains := func(list []rules.PortRange) bool {
		return slices.ContainsFunc(list, func(r rules.PortRange) bool { return r.First <= port && port <= r.Last })
	}
	end := func(kind rules.EndKind, port uint16) string { return fmt.Sprintf("%s %d", kind, port) }
	six := s.Family == rules.IPv6 && !in.DualStack
	untouched := p.Protocol != "tcp" || six && in.WithoutIPv6 == rules.IPv6Mesh
	blocked := six && in.WithoutIPv6 == rules.IPv6Block
	verdict := func(to uint16) string {
		if blocked {
			return "refused"
		}
		return end(rules.Redirected, to)
	}
	if p.Direction == rules.Inbound {
		if untouched || contains(in.InboundExclude) {
			return end(rules.Delivered, port)
		}
		return verdict(in.InboundPort)
	}
	stays := p.Destination.Addr() == s.Own || p.Destination.Addr().IsLoopback()
	if asksConsul(in, s, p) {
		if in.DNSPort == 0 {
			return end(rules.Leaves, 53) // for an address that is not the pod's
		}
		return end(rules.Redirected, in.DNSPort)
	}
	if blocked && p.Protocol == "udp" && port == 53 && in.DNSPort == 0 && in.DNSAddress.IsValid() && !stays && (!p.Socket || p.UID != in.UID) {
		return "refused"
	}
	proxys := p.Socket && (p.UID == in.UID || slices.Contains(in.UIDsExclude, p.UID))
	range_ := slices.ContainsFunc(in.RangesExclude, func(x netip.Prefix) bool { return x.Contains(p.Destination.Addr()) })
	if untouched || proxys || range_ || contains(in.OutboundExclude) || p.Destination.Addr() == s.Loopback || blocked && stays {
		if stays {
			return end(rules.Delivered, port)
		}
		return end(rules.Leaves, port)
	}
	return verdict(in.OutboundPort)
}

func asksConsul(in consul.Intent, s scene, p packet) bool {
	if p.Destination.Port() != 53 || in.DualStack != (s.Family == rules.IPv6) {
		return false
	}
	asked := in.DNSAddress
	if !asked.IsValid() {
		asked = s.Loopback
	}
	return in.DNSPort != 0 && p.Destination.Addr() == asked || in.DNSPort == 0 && in.DNSAddress.IsValid()
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func draw(random *rand.Rand) (rules.Mesh, rules.Pod) {
	config := ""
	maybe := func(key string, values ...string) {
		if random.IntN(2) == 0 {
			config += `,"` + key + `":` + pick(random, values...)
		}
	}
	dualStack := random.IntN(2) == 0
	maybe("ExcludeInboundPorts", `["20200","20300"]`, `["0:65535"]`, `["8080"]`, `["80:90","8080"]`, meshtest.LongList(random, ":"))
	maybe("ExcludeOutboundPorts", `["3306"]`, `["80","443"]`, `["1:79","81"]`, `["53"]`, meshtest.LongList(random, ":"))
	maybe("ExcludeOutboundCIDRs", `["198.51.100.0/24"]`, `["0.0.0.0/0"]`, `["fd00::/8","10.96.0.10"]`, `["::/0"]`, meshtest.LongRanges(random))
	maybe("ExcludeUIDs", `["5996","5997"]`, `["0"]`, `["5995"]`)
	maybe("ProxyOutboundPort", `15002`, `0`)
	addresses := []string{`"10.0.0.10"`}
	loopback := `"127.0.0.1"`
	if dualStack {
		addresses, loopback = []string{`"fd00::10"`}, `"::1"`
	}
	switch random.IntN(4) {
	case 0:
		maybe("ConsulDNSIP", addresses...)
	case 1:
		config += `,"ConsulDNSIP":` + loopback + `,"ConsulDNSPort":8600`
	case 2:
		maybe("ConsulDNSPort", "8600")
	}
	without := pick(random, rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block)
	return consul.New(consul.Defaults{Common: declared.Common{WithoutIPv6: without}}), injected(minimal(config), "dual-stack", fmt.Sprint(dualStack))
}

func drawPacket(random *rand.Rand, s scene, in consul.Intent) packet {
	port := pick(random, 80, 443, 53, 53, 3306, 20200, 8080, 8600, 85, in.InboundPort, in.OutboundPort, 0, 65535)
	protocol := pick(random, "tcp", "tcp", "tcp", "udp")
	if random.IntN(3) == 0 {
		return s.Received(protocol, port)
	}
	p := s.Sent(pick(random, app, in.UID, 5996, 0), protocol, pick(random, s.Outside, s.Outside, s.Own, s.Loopback, s.DNSAddr), port)
	p.Socket = random.IntN(5) > 0
	return p
}
