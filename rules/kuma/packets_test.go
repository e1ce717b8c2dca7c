// SPDX-License-Identifier: Apache-2.0

package kuma_test

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
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/kuma"
	declared "github.com/meshnetd/meshnetd/rules/mesh"
)

const (
	app   = 1000
	proxy = 5678
	user  = 1001
)

type (
	scene  = meshtest.Scene
	packet = rules.Packet
)

var excluded = map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("192.0.2.1"), rules.IPv6: netip.MustParseAddr("2001:db8:1::1")}

// busy has something in every list.
var busy = strings.NewReplacer(
	"    excludePorts: []\n    port: 15001\n", "    excludePorts: [3306]\n    port: 15001\n    excludePortsForUIDs: ['tcp:22:1001-1005', 'udp:53,81:1001']\n"+
		"    excludePortsForIPs: ['192.0.2.0/24', '2001:db8:1::/48']\n",
	"    excludePortsForIPs: []\n", "    excludePortsForIPs: ['192.0.2.1,2001:db8:1::1']\n",
	"networks: []", "networks: ['docker0:172.17.0.0/16', 'docker0:fd17::/16']",
	"dropInvalidPackets: false", "dropInvalidPackets: true").Replace(usual)

// behind is the packet, come in from behind the pod.
func behind(p packet) packet { p.In = "docker0"; return p }

var classes = []meshtest.Class{
	{Name: "app to outside", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: "redirected 15001"},
	{Name: "app to outside, excluded port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: "leaves 3306"},
	{Name: "app to an excluded range", Packet: func(s scene) packet { return s.Sent(app, "tcp", excluded[s.Family], 80) }, Want: "leaves 80"},
	{Name: "proxy to outside", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
	{Name: "excluded user to its port", Packet: func(s scene) packet { return s.Sent(user+4, "tcp", s.Outside, 22) }, Want: "leaves 22"},
	{Name: "excluded user to another port", Packet: func(s scene) packet { return s.Sent(user, "tcp", s.Outside, 80) }, Want: "redirected 15001"},
	{Name: "another user to that port", Packet: func(s scene) packet { return s.Sent(user+5, "tcp", s.Outside, 22) }, Want: "redirected 15001"},
	{Name: "excluded user's lookup", Packet: func(s scene) packet { return s.Sent(user, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
	{Name: "app to loopback", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Loopback, 8080) }, Want: "delivered 8080"},
	{Name: "app to its own address", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
	{Name: "proxy to its own address", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Own, 8080) }, Want: "redirected 15006"},
	{Name: "proxy to loopback", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Loopback, 8080) }, Want: "delivered 8080"},
	{Name: "proxy passes on", Packet: func(s scene) packet { return meshtest.From(s.Sent(proxy, "tcp", s.Own, 8080), s.Passthrough) }, Want: "delivered 8080"},
	{Name: "inbound", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: "redirected 15006"},
	{Name: "inbound, probes", Packet: func(s scene) packet { return s.Received("tcp", 9001) }, Want: "delivered 9001"},
	{Name: "inbound from an excluded source", Packet: func(s scene) packet { return meshtest.From(s.Received("tcp", 8080), excluded[s.Family]) }, Want: "delivered 8080"},
	{Name: "inbound outside its connection", Packet: func(s scene) packet { p := s.Received("tcp", 8080); p.State = rules.StateInvalid; return p }, Want: "dropped"},
	{Name: "from behind an interface", Packet: func(s scene) packet { return behind(s.Received("tcp", 8080)) }, Want: "redirected 15001"},
	{Name: "lookup from behind an interface", Packet: func(s scene) packet { return behind(s.Received("udp", 53)) }, Want: "redirected 15053"},
	{Name: "app's lookup", Packet: func(s scene) packet { return s.Sent(app, "udp", s.DNSAddr, 53) }, Want: "redirected 15053"},
	{Name: "proxy's lookup", Packet: func(s scene) packet { return s.Sent(proxy, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
	{Name: "app's lookup by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 53) }, Want: "leaves 53"},
	{Name: "UDP out", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 443) }, Want: "leaves 443"},
	{Name: "UDP in", Packet: func(s scene) packet { return s.Received("udp", 8080) }, Want: "delivered 8080"},
	// What kuma-validation asks: as the proxy's user it dials an address of lo that is not loopback's first.
	{Name: "validation", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Passthrough, 20001) }, Want: "redirected 15006"},
}

func TestClasses(t *testing.T) {
	meshtest.Classes(t, meshtest.Plan(t, mesh, injected(busy)), classes, rules.IPv4, rules.IPv6)
	// Without capture nobody listens for lookups, whoever asks.
	off := strings.Replace(busy, "    enabled: true\n    port: 15053", "    enabled: false\n    port: 15053", 1)
	meshtest.Classes(t, meshtest.Plan(t, mesh, injected(off)), []meshtest.Class{
		{Name: "lookup from behind an interface", Packet: func(s scene) packet { return behind(s.Received("udp", 53)) }, Want: "delivered 53"},
		{Name: "app's lookup", Packet: func(s scene) packet { return s.Sent(app, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
		{Name: "app's lookup by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 53) }, Want: "redirected 15001"},
	}, rules.IPv4, rules.IPv6)
}

// Lookups of the proxy and of the app are in zones of their own.
func TestZones(t *testing.T) {
	plan := meshtest.Plan(t, mesh, injected(usual))
	one := meshtest.Plan(t, mesh, injected(strings.Replace(usual, "skipConntrackZoneSplit: false", "skipConntrackZoneSplit: true", 1)))
	for _, s := range meshtest.Scenes {
		answer := s.Received("udp", 40000)
		answer.Source = netip.AddrPortFrom(s.DNSAddr, 53)
		toApp := s.Sent(proxy, "udp", s.Own, 40000)
		toApp.Source = netip.AddrPortFrom(s.Loopback, 15053)
		for name, tt := range map[string]struct {
			packet packet
			zone   uint16
		}{
			"app asks": {s.Sent(app, "udp", s.DNSAddr, 53), 2}, "proxy asks": {s.Sent(proxy, "udp", s.DNSAddr, 53), 1},
			"proxy is answered": {answer, 1}, "proxy answers": {toApp, 2}, "others": {s.Sent(app, "udp", s.Outside, 443), 0},
		} {
			for p, want := range map[*rules.Plan]uint16{&plan: tt.zone, &one: 0} {
				path, err := effect.Trace(*p, tt.packet, meshtest.Interfaces())
				if err != nil || path.End.Zone != want {
					t.Errorf("%s %s: zone %d, want %d, %v\n%s", s.Family, name, path.End.Zone, want, err, path)
				}
			}
		}
	}
}

func TestIPv6(t *testing.T) {
	config := strings.Replace(busy, "dualstack", "ipv4", 1)
	for _, tt := range []struct {
		without          rules.WithoutIPv6
		out, in, lookups string
		note             string
	}{
		{rules.IPv6Mesh, "leaves 80", "delivered 8080", "leaves 53", `IPv6 goes around the mesh: the pod has fd00:10:244::7`},
		{rules.IPv6Capture, "redirected 15001", "redirected 15006", "redirected 15053", "IPv6 is captured although the proxy speaks only IPv4"},
		{rules.IPv6Block, "refused", "refused", "refused", "IPv6 is refused: the proxy speaks only IPv4"},
	} {
		t.Run(string(tt.without), func(t *testing.T) {
			m := kuma.New(kuma.Defaults{Common: declared.Common{WithoutIPv6: tt.without}})
			plan := meshtest.Plan(t, m, injected(config))
			if plan.WithoutIPv6 != tt.without {
				t.Errorf("IPv6 that the proxy does not speak: %q", plan.WithoutIPv6)
			}
			forwarded := len(plan.Notes) > 1 && strings.Contains(plan.Notes[1], "from behind docker0 is forwarded")
			if forwarded != (tt.without == rules.IPv6Block) {
				t.Errorf("notes: %q", plan.Notes)
			}
			if !strings.Contains(plan.Notes[0], tt.note) || !strings.Contains(plan.Notes[0], "ipFamilyMode") {
				t.Errorf("notes: %q", plan.Notes)
			}
			if (len(plan.Loopback) > 0) != (tt.without == rules.IPv6Capture) {
				t.Errorf("loopback: %v", plan.Loopback)
			}
			meshtest.Classes(t, plan, []meshtest.Class{
				{Name: "out", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 80) }, Want: tt.out},
				{Name: "in", Packet: func(s scene) packet { return s.Received("tcp", 8080) }, Want: tt.in},
				{Name: "lookup", Packet: func(s scene) packet { return s.Sent(app, "udp", s.DNSAddr, 53) }, Want: tt.lookups},
				{Name: "lookup by TCP", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.DNSAddr, 53) }, Want: "leaves 53"},
				{Name: "excluded port", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Outside, 3306) }, Want: "leaves 3306"},
				{Name: "excluded range", Packet: func(s scene) packet { return s.Sent(app, "tcp", excluded[s.Family], 80) }, Want: "leaves 80"},
				{Name: "excluded user", Packet: func(s scene) packet { return s.Sent(user, "tcp", s.Outside, 22) }, Want: "leaves 22"},
				{Name: "excluded user by another protocol", Packet: func(s scene) packet { return s.Sent(user, "tcp", s.Outside, 81) }, Want: strings.Replace(tt.out, "leaves 80", "leaves 81", 1)},
				{Name: "excluded source", Packet: func(s scene) packet { return meshtest.From(s.Received("tcp", 8080), excluded[s.Family]) }, Want: "delivered 8080"},
				{Name: "probes", Packet: func(s scene) packet { return s.Received("tcp", 9001) }, Want: "delivered 9001"},
				{Name: "proxy", Packet: func(s scene) packet { return s.Sent(proxy, "tcp", s.Outside, 80) }, Want: "leaves 80"},
				{Name: "lookup of the proxy", Packet: func(s scene) packet { return s.Sent(proxy, "udp", s.DNSAddr, 53) }, Want: "leaves 53"},
				{Name: "in the pod", Packet: func(s scene) packet { return s.Sent(app, "tcp", s.Own, 8080) }, Want: "delivered 8080"},
				{Name: "udp", Packet: func(s scene) packet { return s.Sent(app, "udp", s.Outside, 80) }, Want: "leaves 80"},
			}, rules.IPv6)
			meshtest.Classes(t, plan, classes, rules.IPv4)
		})
	}
}

// What becomes of a packet, in the words of Kuma's documentation. Any settings, any packet; a failure names its seed.
func TestInvariants(t *testing.T) {
	for _, seed := range sample.Seeds(t, 100, 600) {
		random := rand.New(rand.NewPCG(seed, 0))
		m, pod := draw(random)
		plan := meshtest.Plan(t, m, pod)
		in := m.Decide(pod).Intent.(kuma.Intent)
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

func expected(in kuma.Intent, s scene, p packet) string {
	port := p.Destination.Port()
	end := func(kind rules.EndKind, port uint16) string { return fmt.Sprintf("%s %d", kind, port) }
	six := s.Family == rules.IPv6 && in.IPv4Only
	blocked := six && in.WithoutIPv6 == rules.IPv6Block
	stays := p.Destination.Addr() == s.Own || p.Destination.Addr().IsLoopback()
	left := end(rules.Leaves, port)
	if stays {
		left = end(rules.Delivered, port)
	}
	within := func(ranges []netip.Prefix, addr netip.Addr) bool {
		return slices.ContainsFunc(ranges, func(x netip.Prefix) bool { return x.Contains(addr) })
	}
	listed := func(d kuma.Direction) bool {
		return len(d.Include) == 0 && !slices.Contains(d.Exclude, port) || slices.Contains(d.Include, port)
	}
	capture := func(to uint16) string {
		if blocked {
			return "refused"
		}
		return end(rules.Redirected, to)
	}
	if six && in.WithoutIPv6 == rules.IPv6Mesh {
		return left
	}
	if p.Direction == rules.Inbound {
		if p.Protocol != "tcp" || !in.Inbound.Enabled || within(in.Inbound.RangeExclude, p.Source.Addr()) || !listed(in.Inbound) {
			return left
		}
		return capture(in.Inbound.Port)
	}
	proxys := p.Socket && p.UID == in.UID
	exempt := p.Socket && slices.ContainsFunc(in.Users, func(u kuma.User) bool {
		return u.Protocol == p.Protocol && u.First <= p.UID && p.UID <= u.Last &&
			slices.ContainsFunc(u.Ports, func(r rules.PortRange) bool { return r.First <= port && port <= r.Last })
	})
	switch {
	case exempt, blocked && stays:
		return left
	case blocked && p.Protocol == "udp" && in.DNSCapture && port == 53 && !proxys:
		return "refused"
	case p.Protocol == "udp" && in.DNSCapture && port == 53 && !proxys:
		return end(rules.Redirected, in.DNSPort)
	case p.Protocol == "udp" || in.DNSCapture && port == 53 && !proxys || !in.Outbound.Enabled:
		return left
	case within(in.Outbound.RangeExclude, p.Destination.Addr()), len(in.Outbound.Include) == 0 && slices.Contains(in.Outbound.Exclude, port):
		return left
	case proxys && stays && p.Destination.Addr() != s.Loopback && p.Source.Addr() != s.Passthrough:
		return capture(in.Inbound.Port) // a request to its own app like any other
	case proxys || stays || !listed(in.Outbound):
		return left
	}
	return capture(in.Outbound.Port)
}

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

func draw(random *rand.Rand) (rules.Mesh, rules.Pod) {
	var config strings.Builder
	maybe := func(indent, key string, values ...string) {
		if random.IntN(2) == 0 {
			fmt.Fprintf(&config, "%s%s: %s\n", indent, key, pick(random, values...))
		}
	}
	config.WriteString("cniMode: true\n")
	maybe("", "kumaDPUser", "1337", `"5679"`)
	maybe("", "ipFamilyMode", "ipv4", "ipv4", "ipv6", "dualstack")
	maybe("", "dropInvalidPackets", "true")
	config.WriteString("redirect:\n  dns:\n    enabled: " + pick(random, "true", "false") + "\n    captureAll: true\n")
	maybe("    ", "port", "15153")
	maybe("    ", "skipConntrackZoneSplit", "true", "false")
	for _, direction := range []string{"inbound", "outbound"} {
		config.WriteString("  " + direction + ":\n    enabled: " + pick(random, "true", "true", "true", "false") + "\n")
		maybe("    ", "includePorts", "[]", "[80, 8080]", "[443]", meshtest.LongList(random, ""))
		maybe("    ", "excludePorts", "[]", "[9001, 80]", "[8080, 22]", "[53]", meshtest.LongList(random, ""))
		maybe("    ", "excludePortsForIPs", "[198.51.100.0/24]", "['0.0.0.0/0']", "['fd00::/8,10.244.2.9']", "['::/0']", meshtest.LongRanges(random))
	}
	maybe("    ", "excludePortsForUIDs", "[1000]", "['tcp:22,80:1001-1005']", "['53:0-2000', 'udp:53:5678']", "['udp:80,443:0-2000']", "['8000-9000:1000']")
	without := pick(random, rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block)
	return kuma.New(kuma.Defaults{Common: declared.Common{WithoutIPv6: without}}), injected(config.String())
}

func drawPacket(random *rand.Rand, s scene, in kuma.Intent) packet {
	port := pick(random, 80, 443, 53, 53, 22, 9001, 8080, 8500, in.Inbound.Port, in.Outbound.Port, in.DNSPort, 1, 65535)
	protocol := pick(random, "tcp", "tcp", "tcp", "udp")
	if random.IntN(3) == 0 {
		return s.Received(protocol, port)
	}
	p := s.Sent(pick(random, app, user, in.UID, in.UID, 0), protocol, pick(random, s.Outside, s.Outside, s.Own, s.Own, s.Loopback, s.DNSAddr), port)
	if random.IntN(5) == 0 && p.Destination.Addr() == s.Own && p.UID == in.UID {
		p.Source = netip.AddrPortFrom(s.Passthrough, 40000)
	}
	p.Socket = random.IntN(5) > 0
	return p
}
