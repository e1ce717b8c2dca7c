// SPDX-License-Identifier: Apache-2.0

package linkerd_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

const (
	app   = 1000
	proxy = 2102
)

type (
	scene  = meshtest.Scene
	packet = rules.Packet
)

var classes = []meshtest.Class{
	{Name: "app to outside", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: "redirected 4140"},
	{Name: "app to outside, skipped port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: "leaves 3306"},
	{Name: "app to outside, opaque port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 5432) }, Want: "redirected 4140"},
	{Name: "proxy to outside", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
	{Name: "kernel's reset to outside", Packet: func(s scene) packet { p := s.Sent(app, "tcp", s.Outside, 80); p.Socket = false; return p }, Want: "redirected 4140"},
	{Name: "app to loopback", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Loopback, 8080) }, Want: "delivered 8080"},
	{Name: "app to its own address", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
	{Name: "proxy to its own address", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
	{Name: "inbound", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: "redirected 4143"},
	{Name: "inbound, admin port", Packet: func(s scene) packet { return s.Received("tcp", 4191) }, Want: "delivered 4191"},
	{Name: "inbound, control port", Packet: func(s scene) packet { return s.Received("tcp", 4190) }, Want: "delivered 4190"},
	{Name: "inbound, skipped port", Packet: func(s scene) packet { return s.Received("tcp", 22) }, Want: "delivered 22"},
	{Name: "inbound, skipped range", Packet: func(s scene) packet { return s.Received("tcp", 7005) }, Want: "delivered 7005"},
	{Name: "inbound, behind the range", Packet: func(s scene) packet { return s.Received("tcp", 7011) }, Want: "redirected 4143"},
	{Name: "inbound from a skipped source", Packet: func(s scene) packet {
		return meshtest.From(s.Received("tcp", 8080), map[rules.Family]netip.Addr{
			rules.IPv4: netip.MustParseAddr("172.17.0.5"), rules.IPv6: netip.MustParseAddr("fd17::5")}[s.Family])
	}, Want: "delivered 8080"},
	{Name: "app's lookup", Packet: func(s scene) packet { return s.Sent(app, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
	{Name: "proxy's lookup", Packet: func(s scene) packet { return s.Sent(proxy, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
	{Name: "app's lookup by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 53) }, Want: "redirected 4140"},
	{Name: "UDP out", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 443) }, Want: "leaves 443"},
	{Name: "UDP in", Packet: func(s scene) packet { return s.Received("udp", 8080) }, Want: "delivered 8080"},
	// What linkerd-network-validator asks: it dials an address that nobody has, and must reach its own listener.
	{Name: "validator", Packet: func(s scene) packet {
		return s.Sent(65534, "tcp", map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("1.1.1.1"), rules.IPv6: netip.MustParseAddr("fd00::1")}[s.Family], 20001)
	}, Want: "redirected 4140"},
}

// busy is a pod with something in every list.
func busy() rules.Pod {
	pod := injected("skip-outbound-ports", "3306", "skip-inbound-ports", "22,7000-7010", "skip-subnets", "172.17.0.0/16,fd17::/16", "opaque-ports", "5432")
	pod.IPs = both
	return pod
}

func TestClasses(t *testing.T) {
	defaults := linkerd.Standard()
	defaults.ProxyIPv6 = true
	meshtest.Classes(t, meshtest.Plan(t, linkerd.New(defaults), busy()), classes, rules.IPv4, rules.IPv6)
}

func TestIPv6(t *testing.T) {
	for _, tt := range []struct {
		without    rules.WithoutIPv6
		out, in    string
		skip, note string
	}{
		{rules.IPv6Mesh, "leaves 80", "delivered 8080", "leaves 3306", `IPv6 goes around the mesh: the pod has fd00:10:244::7`},
		{rules.IPv6Capture, "redirected 4140", "redirected 4143", "leaves 3306", "IPv6 is captured although the proxy speaks only IPv4"},
		{rules.IPv6Block, "refused", "refused", "leaves 3306", "IPv6 is refused: the proxy speaks only IPv4"},
	} {
		t.Run(string(tt.without), func(t *testing.T) {
			defaults := linkerd.Standard()
			defaults.WithoutIPv6 = tt.without
			m := linkerd.New(defaults)
			plan := meshtest.Plan(t, m, busy())
			if plan.WithoutIPv6 != tt.without {
				t.Errorf("IPv6 that the proxy does not speak: %q", plan.WithoutIPv6)
			}
			if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], tt.note) || !strings.Contains(plan.Notes[0], "disableIPv6") {
				t.Errorf("notes: %q", plan.Notes)
			}
			meshtest.Classes(t, plan, []meshtest.Class{
				{Name: "out", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: tt.out},
				{Name: "in", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: tt.in},
				{Name: "skipped", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: tt.skip},
				{Name: "probe", Packet: func(s scene) packet { return s.Received("tcp", 4191) }, Want: "delivered 4191"},
				{Name: "proxy", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
				{Name: "in the pod", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
				{Name: "udp", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 80) }, Want: "leaves 80"},
			}, rules.IPv6)
			meshtest.Classes(t, plan, classes, rules.IPv4)
			pod := busy()
			pod.IPs = both[:1]
			if now := meshtest.Plan(t, m, pod); !now.V6.Equal(plan.V6) {
				t.Errorf("without an IPv6 address: %v", now.V6)
			}
		})
	}
}

// What becomes of a packet, in the words of Linkerd's documentation: TCP is redirected, but for what the proxy
// sends, what stays in the pod, and what is skipped. Any settings, any packet; a failure names its seed.
func TestInvariants(t *testing.T) {
	for _, seed := range sample.Seeds(t, 100, 600) {
		random := rand.New(rand.NewPCG(seed, 0))
		m, pod := draw(random)
		plan := meshtest.Plan(t, m, pod)
		in := m.Decide(pod).Intent.(linkerd.Intent)
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

func expected(in linkerd.Intent, s scene, p packet) string {
	port := p.Destination.Port()
	contains := func(list []rules.PortRange) bool {
		return slices.ContainsFunc(list, func(r rules.PortRange) bool { return r.First <= port && port <= r.Last })
	}
	six := s.Family == rules.IPv6 && !in.ProxyIPv6
	untouched := p.Protocol != "tcp" || six && in.WithoutIPv6 == rules.IPv6Mesh
	verdict := func(to uint16) string {
		if six && in.WithoutIPv6 == rules.IPv6Block {
			return "refused"
		}
		return meshtest.End(rules.End{Kind: rules.Redirected, To: netip.AddrPortFrom(s.Own, to)})
	}
	if p.Direction == rules.Inbound {
		listed := len(in.RedirectPorts) == 0 || slices.Contains(in.RedirectPorts, port)
		skipped := slices.ContainsFunc(in.SkipSources, func(x netip.Prefix) bool { return x.Contains(p.Source.Addr()) })
		if untouched || contains(in.SkipInbound) || port == in.AdminPort || port == in.ControlPort || skipped || !listed {
			return meshtest.End(rules.End{Kind: rules.Delivered, To: p.Destination})
		}
		return verdict(in.InboundPort)
	}
	own := p.Destination.Addr() == s.Own || p.Destination.Addr().IsLoopback()
	proxys := p.Socket && (p.UID == in.UID || in.GID != 0 && p.GID == in.GID)
	switch {
	case own:
		return meshtest.End(rules.End{Kind: rules.Delivered, To: p.Destination})
	case untouched || proxys || contains(in.SkipOutbound) || contains(in.APIServer):
		return meshtest.End(rules.End{Kind: rules.Leaves, To: p.Destination})
	}
	return verdict(in.OutboundPort)
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func draw(random *rand.Rand) (rules.Mesh, rules.Pod) {
	defaults := linkerd.Standard()
	defaults.ProxyIPv6 = random.IntN(2) == 0
	defaults.WithoutIPv6 = pick(random, rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block)
	defaults.SkipInbound = ports(pick(random, "", "4567,4568"))
	defaults.SkipOutbound = ports(pick(random, "", "4567,4568"))
	defaults.RedirectPorts = pick(random, nil, []uint16{80, 8080})
	pod := injected()
	pod.IPs = both
	maybe := func(key string, values ...string) {
		if random.IntN(2) == 0 {
			pod.Annotations["config.linkerd.io/"+key] = pick(random, values...)
		}
	}
	maybe("skip-outbound-ports", "25", "0-65535", "80,443,8000-8010", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,80,90-100", "0", bare(meshtest.LongList(random, "-")))
	maybe("skip-inbound-ports", "22", "0-1023", "80", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,80", bare(meshtest.LongList(random, "-")))
	maybe("skip-subnets", "10.0.0.0/8", "0.0.0.0/0", "fd00::/8,10.244.2.9/32", "::/0", bare(meshtest.LongRanges(random)))
	maybe("proxy-uid", "2103", "1000")
	maybe("proxy-gid", "3000", "0", "4000")
	maybe("proxy-inbound-port", "80")
	maybe("proxy-outbound-port", "443")
	if random.IntN(4) == 0 {
		pod.Namespace, pod.Labels["linkerd.io/control-plane-component"] = "linkerd", "destination"
	}
	return linkerd.New(defaults), pod
}

// bare is a list as an annotation has it.
func bare(list string) string { return strings.NewReplacer("[", "", "]", "", `"`, "").Replace(list) }

func drawPacket(random *rand.Rand, s scene, in linkerd.Intent) packet {
	port := pick(random, 80, 443, 25, 22, 4191, 4190, 4567, 6443, 8005, 8011, in.InboundPort, in.OutboundPort, 0, 65535)
	protocol := pick(random, "tcp", "tcp", "tcp", "udp")
	if random.IntN(3) == 0 {
		return s.Received(protocol, port)
	}
	p := s.Sent(pick(random, app, in.UID, 0, in.UID+1), protocol, pick(random, s.Outside, s.Outside, s.Own, s.Loopback, s.DNSAddr), port)
	p.Socket = random.IntN(5) > 0
	return p
}

func FuzzAnnotations(f *testing.F) {
	keys := []string{"skip-outbound-ports", "skip-inbound-ports", "skip-subnets", "proxy-uid", "proxy-gid", "proxy-inbound-port",
		"proxy-outbound-port", "proxy-control-port", "proxy-admin-port"}
	for i, value := range []string{"80,443", "1-2,3", "10.0.0.0/8,fd00::/8", "2103", "-1", "14143", "14140", "14190", "14191"} {
		f.Add(uint8(i), value, value)
	}
	f.Add(uint8(0), "80\n-A OUTPUT -j ACCEPT", `"`)
	f.Fuzz(func(t *testing.T, key uint8, one, other string) {
		defaults := linkerd.Standard()
		defaults.ProxyIPv6 = key > 128
		i := int(key) % len(keys)
		meshtest.Check(t, linkerd.New(defaults), injected(keys[i], one, keys[(i+1)%len(keys)], other))
	})
}
