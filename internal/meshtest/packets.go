// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Scene is the addresses of one family that packets have in tests.
type Scene struct {
	Family                                               rules.Family
	Own, Loopback, Outside, Client, Passthrough, DNSAddr netip.Addr
}

// Name returns "IPv4" or "IPv6".
func (s Scene) Name() string {
	if s.Family == rules.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Scenes are those of both families.
var Scenes = []Scene{
	{rules.IPv4, a("10.244.1.7"), a("127.0.0.1"), a("198.51.100.1"), a("10.244.2.9"), a("127.0.0.6"), a("10.96.0.10")},
	{rules.IPv6, a("fd00:10:244::7"), a("::1"), a("2001:db8::1"), a("fd00:10:245::9"), a("::6"), a("fd00:10:96::10")},
}

func a(text string) netip.Addr { return netip.MustParseAddr(text) }

// Interfaces are the pod's; others of its own are behind docker0.
func Interfaces() []rules.Interface {
	var own []netip.Addr
	for _, s := range Scenes {
		own = append(own, s.Own)
	}
	return []rules.Interface{{Name: "eth0", Addresses: own}, {Name: "docker0", Addresses: Addresses("172.17.0.1", "fd17::1")}}
}

// Sent is a packet of a socket of that user and of group 3000.
func (s Scene) Sent(uid uint32, protocol string, to netip.Addr, port uint16) rules.Packet {
	p := rules.Packet{Direction: rules.Outbound, Protocol: protocol, Source: netip.AddrPortFrom(s.Own, 40000), Destination: netip.AddrPortFrom(to, port),
		Socket: true, UID: uid, GID: 3000, Out: "eth0"} // which leads to whatever is not the pod's own
	if to == s.Loopback {
		p.Source = netip.AddrPortFrom(s.Loopback, 40000)
	}
	return p
}

// Received is a packet of the client to the pod.
func (s Scene) Received(protocol string, port uint16) rules.Packet {
	return rules.Packet{Direction: rules.Inbound, Protocol: protocol, Source: netip.AddrPortFrom(s.Client, 40000),
		Destination: netip.AddrPortFrom(s.Own, port), In: "eth0"}
}

// From returns the packet from another address.
func From(p rules.Packet, source netip.Addr) rules.Packet {
	p.Source = netip.AddrPortFrom(source, p.Source.Port())
	return p
}

// Class is a kind of packets and what becomes of it: how it ends, and the port that it ends with.
type Class struct {
	Name   string
	Packet func(Scene) rules.Packet
	Want   string // such as "redirected 4140"
}

// Classes sends a packet of each class through the plan, of each family that the plan is asked about.
func Classes(t *testing.T, plan rules.Plan, classes []Class, families ...rules.Family) {
	t.Helper()
	for _, s := range Scenes {
		for _, c := range classes {
			for _, family := range families {
				if family != s.Family {
					continue
				}
				t.Run(s.Family.String()+"/"+c.Name, func(t *testing.T) {
					path, err := effect.Trace(plan, c.Packet(s), Interfaces())
					if err != nil {
						t.Fatal(err)
					}
					if got := End(path.End); got != c.Want {
						t.Errorf("%s, want %s\n%s", got, c.Want, path)
					}
				})
			}
		}
	}
}

// End prints how a packet ended and with which port.
func End(e rules.End) string {
	switch e.Kind {
	case rules.Dropped, rules.Refused:
		return string(e.Kind)
	case rules.Leaves, rules.Delivered, rules.Redirected, rules.TProxied:
	}
	return fmt.Sprintf("%s %d", e.Kind, e.To.Port())
}

// Forwarded returns a packet that arrives for somebody behind the pod.
func Forwarded(p rules.Packet) rules.Packet {
	to := Scenes[0].Outside
	if p.Family() == rules.IPv6 {
		to = Scenes[1].Outside
	}
	p.Destination, p.Out = netip.AddrPortFrom(to, p.Destination.Port()), "docker0"
	return p
}
