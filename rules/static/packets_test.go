// SPDX-License-Identifier: Apache-2.0

package static_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/static"
)

const (
	app   = 1000
	proxy = 4000
)

type (
	scene  = meshtest.Scene
	packet = rules.Packet
)

func by(p packet, name string) packet {
	if p.Direction == rules.Inbound {
		p.In = name
	}
	p.Out = name
	return p
}

func TestClasses(t *testing.T) {
	out := func(uid uint32, protocol string, port uint16) func(scene) packet {
		return func(s scene) packet { return s.Sent(uid, protocol, s.Outside, port) }
	}
	in := func(protocol string, port uint16) func(scene) packet {
		return func(s scene) packet { return s.Received(protocol, port) }
	}
	group := func(s scene) packet { p := s.Sent(app, "tcp", s.Outside, 80); p.GID = 4001; return p }
	lookup := func(uid uint32, protocol string) func(scene) packet {
		return func(s scene) packet { return s.Sent(uid, protocol, s.DNSAddr, 53) }
	}
	common := []meshtest.Class{
		{Name: "app to outside", Packet: out(app, "tcp", 80), Want: "redirected 16001"},
		{Name: "excluded port", Packet: out(app, "tcp", 3306), Want: "leaves 3306"},
		{Name: "excluded range", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 80) }, Want: "leaves 80"},
		{Name: "proxy to outside", Packet: out(proxy, "tcp", 80), Want: "leaves 80"},
		{Name: "proxy's group", Packet: group, Want: "leaves 80"},
		{Name: "exempt user", Packet: out(5000, "tcp", 80), Want: "leaves 80"},
		{Name: "by the excluded interface", Packet: func(s scene) packet { return by(s.Sent(app, "tcp", s.Outside, 80), "docker0") }, Want: "leaves 80"},
		{Name: "within the pod", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
		{Name: "to loopback", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Loopback, 8080) }, Want: "delivered 8080"},
		{Name: "proxy to the app", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
		{Name: "app's lookup", Packet: lookup(app, "udp"), Want: "redirected 16053"},
		{Name: "app's lookup by TCP", Packet: lookup(app, "tcp"), Want: "redirected 16053"},
		{Name: "lookup of a resolver in the pod", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Loopback, 53) }, Want: "redirected 16053"},
		{Name: "proxy's lookup", Packet: lookup(proxy, "udp"), Want: "leaves 53"},
		{Name: "exempt user's lookup", Packet: lookup(5000, "udp"), Want: "leaves 53"},
		{Name: "UDP out", Packet: out(app, "udp", 443), Want: "leaves 443"},
		{Name: "UDP in", Packet: in("udp", 8080), Want: "delivered 8080"},
		{Name: "inbound, excluded port", Packet: in("tcp", 22), Want: "delivered 22"},
		{Name: "inbound, excluded range", Packet: in("tcp", 7010), Want: "delivered 7010"},
		{Name: "inbound by the excluded interface", Packet: func(s scene) packet { return by(s.Received("tcp", 80), "docker0") }, Want: "delivered 80"},
	}
	tproxy := busy()
	tproxy.TProxy = true
	for _, tt := range []struct {
		profile static.Profile
		inbound string
	}{{busy(), "redirected 16006"}, {tproxy, "tproxied 80"}} {
		plan := meshtest.Plan(t, static.New(tt.profile), selected())
		inbound := meshtest.Class{Name: "inbound", Packet: in("tcp", 80), Want: tt.inbound}
		meshtest.Classes(t, plan, append([]meshtest.Class{inbound}, common...), rules.IPv4, rules.IPv6)
	}
	plan := meshtest.Plan(t, static.New(picky()), selected())
	meshtest.Classes(t, plan, []meshtest.Class{
		{Name: "included range", Packet: out(app, "tcp", 80), Want: "redirected 16001"},
		{Name: "included port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 443) }, Want: "redirected 16001"},
		{Name: "neither", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 80) }, Want: "leaves 80"},
		{Name: "excluded of the included", Packet: out(app, "tcp", 81), Want: "leaves 81"},
		{Name: "inbound, included", Packet: in("tcp", 8080), Want: "redirected 16006"},
		{Name: "inbound, not included", Packet: in("tcp", 80), Want: "delivered 80"},
		{Name: "inbound, both", Packet: in("tcp", 22), Want: "delivered 22"},
		{Name: "lookup", Packet: lookup(app, "udp"), Want: "leaves 53"},
	}, rules.IPv4, rules.IPv6)
}

// With TPROXY the proxy may go on from the client's address: the app's answers come back to it.
func TestTProxyKeepsTheClientsAddress(t *testing.T) {
	p := busy()
	p.TProxy = true
	plan := meshtest.Plan(t, static.New(p), selected())
	for _, s := range meshtest.Scenes {
		onward := s.Sent(proxy, "tcp", s.Own, 8080)
		onward.Source, onward.Mark = netip.AddrPortFrom(s.Client, 40000), static.Mark
		path, err := effect.Trace(plan, onward, meshtest.Interfaces())
		if err != nil || meshtest.End(path.End) != "delivered 8080" || path.End.ConnMark != static.Mark {
			t.Fatalf("to the app: %v, %v", err, path)
		}
		answer := s.Sent(app, "tcp", s.Client, 40000)
		answer.Source, answer.State, answer.ConnMark = netip.AddrPortFrom(s.Own, 8080), rules.StateEstablished, static.Mark
		path, err = effect.Trace(plan, answer, meshtest.Interfaces())
		if err != nil || path.End.Kind != rules.Delivered {
			t.Errorf("back to the proxy: %v, %v", err, path)
		}
	}
}

// The proxy never loops, what is excluded is never redirected, and what is included always is: any profile, any packet.
// A failure names its seed.
func TestInvariants(t *testing.T) {
	for _, seed := range sample.Seeds(t, 100, 800) {
		random := rand.New(rand.NewPCG(seed, 0))
		p := draw(random)
		mesh := static.New(p)
		plan := meshtest.Plan(t, mesh, selected())
		meshtest.Check(t, mesh, selected())
		for range 60 {
			s := meshtest.Scenes[random.IntN(2)]
			packet := drawPacket(random, s, p)
			path, err := effect.Trace(plan, packet, meshtest.Interfaces())
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if got, want := end(path.End), expected(p, s, packet); got != want {
				t.Fatalf("seed %d: %s, want %s\n%+v\n%s", seed, got, want, p, path)
			}
		}
	}
}

// end is meshtest.End with the listener of TPROXY, which leaves the destination as it is.
func end(e rules.End) string {
	if e.Kind == rules.TProxied {
		e.To = netip.AddrPortFrom(e.To.Addr(), e.Port)
	}
	return meshtest.End(e)
}

// What is said to go around the proxy does, what is captured is not said to, and all that goes around is said.
func TestGaps(t *testing.T) {
	meshtest.DrawnGaps(t, func(random *rand.Rand) (rules.Mesh, rules.Pod) {
		p := draw(random)
		for p.InboundPort == 0 && p.OutboundPort == 0 && p.DNSPort == 0 { // no configuration has it
			p = draw(random)
		}
		return static.New(p), selected()
	}, func(random *rand.Rand, s scene, d rules.Decision) packet {
		return drawPacket(random, s, d.Intent.(static.Profile))
	})
}

// expected says in the words of the reference what becomes of a packet.
func expected(p static.Profile, s scene, x packet) string {
	port := x.Destination.Port()
	listed := func(list []rules.PortRange) bool {
		return slices.ContainsFunc(list, func(r rules.PortRange) bool { return r.Contains(port) })
	}
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(prefix netip.Prefix) bool { return prefix.Contains(x.Destination.Addr()) })
	}
	without := s.Family == rules.IPv6 && !p.ProxyIPv6
	blocked, ruled := without && p.WithoutIPv6 == rules.IPv6Block, !without || p.WithoutIPv6 != rules.IPv6Mesh
	to := func(kind rules.EndKind, listener uint16) string {
		if blocked {
			return "refused"
		}
		return meshtest.End(rules.End{Kind: kind, To: netip.AddrPortFrom(s.Own, listener)})
	}
	if x.Direction == rules.Inbound {
		captured := len(p.Inbound) == 0 || listed(p.Inbound)
		if p.InboundPort == 0 || x.Protocol != "tcp" || !ruled || !captured || listed(p.InboundExclude) || slices.Contains(p.ExcludeInterfaces, x.In) {
			return meshtest.End(rules.End{Kind: rules.Delivered, To: x.Destination})
		}
		if p.TProxy {
			return to(rules.TProxied, p.InboundPort)
		}
		return to(rules.Redirected, p.InboundPort)
	}
	own := x.Destination.Addr() == s.Own || x.Destination.Addr().IsLoopback()
	left := meshtest.End(rules.End{Kind: rules.Leaves, To: x.Destination})
	if own {
		left = meshtest.End(rules.End{Kind: rules.Delivered, To: x.Destination})
	}
	exempt := x.Socket && (x.UID == p.UID || p.GID != 0 && x.GID == p.GID || slices.Contains(p.ExemptUIDs, x.UID))
	switch {
	case !ruled || exempt || !own && slices.Contains(p.ExcludeInterfaces, x.Out):
		return left
	case p.DNSPort != 0 && port == 53 && (!blocked || x.Protocol == "udp" && !own):
		return to(rules.Redirected, p.DNSPort)
	case p.OutboundPort == 0 || own || x.Protocol != "tcp" || listed(p.OutboundPortsExclude) || within(p.OutboundExclude):
		return left
	case len(p.Outbound)+len(p.OutboundPorts) == 0, within(p.Outbound), listed(p.OutboundPorts):
		return to(rules.Redirected, p.OutboundPort)
	}
	return left
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func draw(random *rand.Rand) static.Profile {
	list := func() []rules.PortRange {
		many := []rules.PortRange{port(1), {First: 2, Last: 9}, port(80), {First: 1000, Last: 2000}}
		for n := range uint16(20) {
			many = append(many, port(3000+2*n))
		}
		return pick(random, nil, nil, []rules.PortRange{port(80)}, []rules.PortRange{{First: 0, Last: 65535}}, []rules.PortRange{{First: 400, Last: 500}, port(22)}, many)
	}
	ranges := func() []netip.Prefix {
		return pick(random, nil, nil, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")},
			[]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, []netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("10.0.0.0/8")})
	}
	p := house()
	p.TProxy = random.IntN(2) == 0
	p.GID = pick[uint32](random, 0, 3000, 4001)
	p.InboundPort, p.Inbound, p.InboundExclude = pick[uint16](random, 0, 80, 16006), list(), list()
	p.OutboundPort, p.OutboundPorts, p.OutboundPortsExclude = pick[uint16](random, 0, 443, 16001), list(), list()
	p.Outbound, p.OutboundExclude = ranges(), ranges()
	p.ExcludeInterfaces = pick(random, nil, []string{"docker0"}, []string{"eth0"})
	p.ExemptUIDs = pick(random, nil, []uint32{0, 5000})
	p.DNSPort = pick[uint16](random, 0, 16053)
	p.ProxyIPv6 = random.IntN(2) == 0
	p.WithoutIPv6 = pick(random, rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block)
	return p
}

func drawPacket(random *rand.Rand, s scene, p static.Profile) packet {
	port := pick(random, 80, 443, 22, 53, 5, 3004, 3005, 3038, 1500, p.InboundPort, p.OutboundPort, 0, 65535)
	protocol := pick(random, "tcp", "tcp", "tcp", "udp")
	if random.IntN(3) == 0 {
		return by(s.Received(protocol, port), pick(random, "eth0", "docker0"))
	}
	x := s.Sent(pick[uint32](random, app, p.UID, 0, 5000, p.UID+1), protocol, pick(random, s.Outside, s.Outside, s.Own, s.Loopback, s.DNSAddr), port)
	x.Socket = random.IntN(5) > 0
	if x.GID = pick(random, 3000, p.GID, 7); !x.Socket {
		x.UID, x.GID = 0, 0
	}
	return by(x, pick(random, "eth0", "docker0"))
}
