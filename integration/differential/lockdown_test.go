// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
)

// locked are the lockdowns that packets are sent through, as they stand in a configuration. They let the markers pass.
var locked = map[string]string{
	"everything": `[[lockdown]]
mode = "enforce"
udp = "dns"
dns_servers = ["10.96.0.10", "fd00:96::a"]
icmp = "errors"
other_protocols = "none"
egress = "proxy"
inbound = "proxy"
allow = ["198.18.0.2/32:9/udp", "10.1.0.5/32:8125/udp", "10.1.0.5/32:5432/tcp", "fd00:5::/64:8000-8200/udp"]
allow_inbound = ["198.18.0.1/32:9/udp", "10.1.0.0/16:22/tcp", "fd00:5::/64:22/tcp"]
local_ports = [15000, "15004-15005"]
`,
	"dropped, and the proxy too": `[[lockdown]]
mode = "enforce"
verdict = "drop"
udp = "none"
icmp = "errors"
egress = "proxy"
proxy_egress = ["10.1.0.0/16:5432/tcp", "10.1.0.0/16:443/udp", "fd00:5::/64:1-6000/tcp"]
local_ports = [15000]
local_ports_root = true
allow = ["198.18.0.2/32:9/udp"]
`,
	"one beside another": `[[lockdown]]
mode = "enforce"
udp = "quic"
other_protocols = "none"

[[lockdown]]
inbound = "proxy"
egress = "proxy"
icmp = "errors"

[[lockdown]]
mode = "enforce"
inbound = "proxy"
allow_inbound = ["198.18.0.1/32:9/udp"]
`,
}

// lockedPlans returns plans of pods that exclude something, in a mesh with both families.
func lockedPlans(t *testing.T, lockdown string) map[string]rules.Plan {
	t.Helper()
	const traffic = "traffic.sidecar.istio.io/"
	pods := map[string]struct{ settings, mode, rerouted string }{
		"istio":      {"", "REDIRECT", ""},
		"istio, dns": {"dns_capture = true\n", "TPROXY", ""},
		"a machine":  {"", "REDIRECT", "net1"},
	}
	all := map[string]rules.Plan{}
	for name, p := range pods {
		cfg, err := config.Parse("m.toml", lockdown+"[istio]\ndual_stack = true\n"+p.settings)
		if err != nil {
			t.Fatal(err)
		}
		node := explain.Node(cfg)
		node.Addresses = []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("fd00:9::9")}
		d := node.Decide(rules.Pod{Namespace: "shop", Annotations: map[string]string{
			"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`, "sidecar.istio.io/interceptionMode": p.mode,
			traffic + "excludeOutboundPorts": "5432", traffic + "excludeInboundPorts": "22,15020", traffic + "excludeInterfaces": "net2",
			traffic + "includeOutboundIPRanges": "*", "istio.io/reroute-virtual-interfaces": p.rerouted}})
		if d.Action != rules.Enrol {
			t.Fatalf("%s: %s", name, d.Detail)
		}
		plan, err := d.Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}})
		if err != nil {
			t.Fatal(err)
		}
		all[name] = plan
	}
	return all
}

// draws returns packets of what a lockdown asks for: protocol, family, direction, user, state, address and port.
func (w *world) draws(random *rand.Rand, n int) []rules.Packet {
	type host struct{ four, six string }
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	all := make([]rules.Packet, n)
	for i := range all {
		family, icmp := 4, rules.ICMP
		if random.IntN(2) == 0 {
			family, icmp = 6, rules.ICMPv6
		}
		of := func(h host) netip.Addr {
			if family == 6 {
				return netip.MustParseAddr(h.six)
			}
			return netip.MustParseAddr(h.four)
		}
		others := []host{{"10.96.0.10", "fd00:96::a"}, {"10.1.0.5", "fd00:5::5"}, {"198.51.100.9", "fd00:9::9"}, {"203.0.113.5", "2001:db8::5"}}
		other, mine := of(others[random.IntN(len(others))]), of(host{"10.244.1.7", "fd00:10:244::7"})
		port, err := strconv.ParseUint(pick("53", "80", "443", "5432", "8125", "22", "8080", "15000", "15004", "15001", "15006", "15021", "15053"), 10, 16)
		if err != nil {
			panic(err)
		}
		p := rules.Packet{Protocol: pick(rules.TCP, rules.TCP, rules.UDP, rules.UDP, icmp, raw)}
		p.State = []rules.CTState{rules.StateNew, rules.StateNew, rules.StateNew, rules.StateEstablished, rules.StateInvalid, rules.StateUntracked}[random.IntN(6)]
		if random.IntN(2) == 0 {
			p.Direction, p.In, p.Source, p.Destination = rules.Inbound, pick("eth0", "eth0", "net1", "net2"), netip.AddrPortFrom(other, 40000), netip.AddrPortFrom(mine, uint16(port))
		} else {
			if random.IntN(4) == 0 { // within the pod
				if other = mine; random.IntN(2) == 0 {
					other = of(host{"127.0.0.1", "::1"})
					mine = other
				}
			}
			p.Out, p.Socket, p.UID = pick("eth0", "eth0", "net2"), true, []uint32{1000, 1000, 0, 1337}[random.IntN(4)]
			p.GID = []uint32{p.UID, 1337, 1000}[random.IntN(3)]
			p.Source, p.Destination = netip.AddrPortFrom(mine, 40000), netip.AddrPortFrom(other, uint16(port))
		}
		all[i] = w.fit(p)
	}
	return all
}

// anyUser is for rules that name the last user there can be, which xt_owner takes from root of the whole system alone.
func anyUser(t *testing.T, by string) {
	t.Helper()
	if by != backend.NFTables {
		nstest.RequireRoot(t)
	}
}

// Packets of every protocol end where the tracer says, by lockdowns that are enforced and ones that count.
func TestLockdown(t *testing.T) {
	perPlan := 130 // in a short run a few
	if testing.Short() {
		perPlan = 20
	}
	seed := sample.Seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	total := 0
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			anyUser(t, b.name)
			g, c := newGallery(t, labtest.Firewall(t, b.name)), newCounts()
			for lockdown, text := range locked {
				for name, plan := range lockedPlans(t, text) {
					shots, err := g.fire(t.Context(), plan, plan, g.draws(random, perPlan*b.percent/100))
					if err != nil {
						t.Fatalf("MESHNETD_SEED=%d: %s, %s: %v", seed, lockdown, name, err)
					}
					if diffs, err := g.firewall.Verify(t.Context(), g.ns, plan); len(diffs) > 0 || err != nil {
						t.Errorf("%s, %s: the kernel holds something else: %v, %v", lockdown, name, diffs, err)
					}
					for _, s := range shots {
						if !c.count(s) {
							t.Errorf("MESHNETD_SEED=%d: %s, %s: got %s, want %s of\n%s%v", seed, lockdown, name, s.got, s.want, s.path, s.seen)
						}
					}
				}
			}
			t.Log(c)
			for _, kind := range []string{delivered, left, dropped, reset} {
				if c.ends[kind] == 0 && !testing.Short() {
					t.Errorf("none is %s", kind)
				}
			}
			total += c.sent
		})
	}
	if least := 2000; !testing.Short() && total < least {
		t.Errorf("only %d packets were sent, of at least %d", total, least)
	}
}

// What a lockdown must let live, errors about the size of packets, and what would get past one that looks at destinations only: a
// socket that is bound to an interface and sends to loopback by it.
func TestLockdownTraps(t *testing.T) {
	for _, b := range backends[:2] {
		t.Run(b.name, func(t *testing.T) {
			anyUser(t, b.name)
			g := newGallery(t, labtest.Firewall(t, b.name))
			if err := g.write(t.Context(), lockedPlans(t, locked["everything"])["istio"]); err != nil {
				t.Fatal(err)
			}
			for to, from := range map[string]string{"10.96.0.10:53": "10.244.1.7:40053", "[fd00:96::a]:53": "[fd00:10:244::7]:40053"} {
				const size = 1300
				asked := segment{protocol: rules.UDP, source: netip.MustParseAddrPort(from), destination: netip.MustParseAddrPort(to), payload: []byte("a lookup")}
				if err := g.ask(asked, size); err != nil {
					t.Error(err)
				}
			}
			if err := g.neighbours(); err != nil {
				t.Error(err)
			}
			for _, s := range []struct {
				to       string
				protocol int
				user     uint32
				want     error
			}{
				{"10.1.0.5", unix.IPPROTO_SCTP, 1000, unix.EPERM}, {"10.1.0.5", unix.IPPROTO_SCTP, 1337, nil},
				{"fd00:5::5", unix.IPPROTO_SCTP, 1000, unix.EPERM}, {"fd00:5::5", unix.IPPROTO_SCTP, 1337, nil},
				{"fd00:5::5", unix.IPPROTO_ICMPV6, 1000, unix.EPERM}, // what looks like neighbour discovery is a program's
			} {
				err := g.pod.do(func() error { return owned(s.user, s.user, func() error { return sendRaw(s.to, s.protocol) }) })
				if !errors.Is(err, s.want) {
					t.Errorf("protocol %d to %s of user %d: %v, want %v", s.protocol, s.to, s.user, err, s.want)
				}
			}
			if err := g.pod.do(toLoopbackByAnInterface); !errors.Is(err, unix.EPERM) {
				t.Errorf("to loopback by an interface: %v", err)
			}
		})
	}
}

// neighbours lets the kernel of the pod join a group and find out the hardware address of a neighbour, and waits until the peer
// sees the report, and the datagram that waited for the address.
func (g *gallery) neighbours() error {
	const (
		header, hopByHop = 40, 8 // lengths
		report           = 143   // of multicast listeners, the second version
		neighbour        = "fe80::99"
	)
	var index int
	if err := g.pod.do(func() error {
		link, err := plugged("eth0")
		if err != nil {
			return err
		}
		index = link.Attrs().Index
		return netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: netlink.NewIPNet(net.ParseIP(neighbour))})
	}); err != nil {
		return err
	}
	ask := func() error {
		fd, err := open(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		group := unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::1:9999").As16(), Interface: uint32(index)}
		if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &group); err != nil {
			return fmt.Errorf("join a group: %w", err)
		}
		return unix.Sendto(fd, []byte("to whom"), 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr(neighbour).As16(), Port: 8000, ZoneId: uint32(index)})
	}
	return g.peer.do(func() error {
		link, err := plugged("eth0")
		if err != nil {
			return err
		}
		address := &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: net.ParseIP(neighbour), Mask: net.CIDRMask(64, 128)}}
		if err := netlink.AddrReplace(link, address); err != nil {
			return err
		}
		tap, err := open(unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(unix.ETH_P_IPV6)))
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(tap) }()
		if err := g.pod.do(func() error { return owned(1337, 1337, ask) }); err != nil {
			return err
		}
		reported, arrived := false, false
		for buffer := make([]byte, 2048); !reported || !arrived; {
			if err := poll([]unix.PollFd{{Fd: int32(tap), Events: unix.POLLIN}}, patience); err != nil {
				return fmt.Errorf("a group was reported %v, a neighbour was found %v: %w", reported, arrived, err)
			}
			n, _, err := unix.Recvfrom(tap, buffer, 0)
			if err != nil {
				return fmt.Errorf("tap: %w", err)
			}
			p := buffer[:n]
			reported = reported || n > header+hopByHop && p[6] == 0 && p[header] == numbers[rules.ICMPv6] && p[header+hopByHop] == report
			arrived = arrived || n > header && p[6] == numbers[rules.UDP] && netip.AddrFrom16([16]byte(p[24:header])).String() == neighbour
		}
		return nil
	})
}

// ask sends a datagram, answers it with the error that it is larger than that, and waits until the kernel has learnt the size.
func (g *gallery) ask(s segment, size uint16) error {
	return g.pod.do(func() error {
		fd, err := open(familyOf(s.source.Addr()), unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := errors.Join(unix.Bind(fd, sockaddr(s.source, 0)), unix.Connect(fd, sockaddr(s.destination, 0))); err != nil {
			return err
		}
		if _, err := unix.Write(fd, s.payload); err != nil {
			return fmt.Errorf("a lookup: %w", err)
		}
		if err := g.put("eth0", s.source.Addr(), s.tooBig(size)); err != nil {
			return err
		}
		for deadline := time.Now().Add(patience * time.Millisecond); ; runtime.Gosched() {
			level, name := unix.IPPROTO_IP, unix.IP_MTU
			if s.source.Addr().Is6() {
				level, name = unix.IPPROTO_IPV6, unix.IPV6_MTU
			}
			if learnt, err := unix.GetsockoptInt(fd, level, name); err == nil && learnt == int(size) {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not learn the size of packets", s.source)
			}
		}
	})
}

// tooBig is a router's answer to a packet that is larger than that.
func (s segment) tooBig(size uint16) []byte {
	quoted := s.bytes(0, false)
	answer := segment{source: netip.AddrPortFrom(s.destination.Addr(), 0), destination: s.source}
	message := append(make([]byte, 8), quoted...)
	binary.BigEndian.PutUint16(message[6:], size)
	protocol, sum := numbers[rules.ICMP], uint32(0)
	if message[0], message[1] = 3, 4; s.source.Addr().Is6() {
		message[0], message[1], protocol = 2, 0, numbers[rules.ICMPv6]
		sum = sumOf(sumOf(uint32(protocol)+uint32(len(message)), s.destination.Addr().AsSlice()), s.source.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(message[2:], ^fold(sumOf(sum, message)))
	return append(answer.header(protocol, 0, len(message)), message...)
}

// sendRaw sends what is a question for a neighbour where the protocol is ICMPv6.
func sendRaw(to string, protocol int) error {
	addr := netip.MustParseAddr(to)
	fd, err := open(familyOf(addr), unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Sendto(fd, append([]byte{135}, make([]byte, 23)...), 0, sockaddr(netip.AddrPortFrom(addr, 0), 0))
}

func toLoopbackByAnInterface() error {
	fd, err := open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.BindToDevice(fd, "eth0"); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte("out"), 0, sockaddr(netip.MustParseAddrPort("127.0.0.1:9999"), 0))
}
