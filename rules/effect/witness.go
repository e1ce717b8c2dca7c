// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// entering is the state of packets as they enter.
var entering = state{in: given(none), out: given(none), route: given(none), mark: entered(Mark), connMark: entered(ConnMark), dst: entered(Destination), dport: entered(DestinationPort)}

// starts returns all packets, divided by how they enter and whether their connection exists.
func starts(p *Pod, six bool) []packets {
	zero := Single(N(0))
	all := box{Protocol: Between(1, 255), Source: every(six), Destination: every(six).Without(zero), SourcePort: every16, DestinationPort: every16,
		UID: every32, GID: every32, In: zero, Out: p.others, Mark: every32}
	var out []packets
	for _, existing := range []bool{false, true} {
		f := packets{entering, all}
		f.box[CTState], f.box[ConnMark], f.box[Transparent], f.box[Listening] = Values(invalid, fresh, untracked), zero, zero, Values(0, 1)
		if existing {
			f.box[CTState], f.box[ConnMark], f.box[Transparent], f.box[Listening] = Values(related, established), every32, Values(0, 1), Single(N(1))
		}
		sent, kernels, received := f, f, f
		sent.socket, sent.owned = true, true
		kernels.box[UID], kernels.box[GID] = zero, zero
		received.inbound = true
		received.box[UID], received.box[GID], received.box[Mark], received.box[In] = zero, zero, zero, p.others
		out = append(out, sent, kernels, received)
	}
	return out
}

// show picks the most usual packet of a pair, and says what becomes of it.
func (c *comparison) show(p pair, six, memory bool) Difference {
	d := Difference{Away: p.away()}
	d.Witness, d.weight = witness(c.pod, six, p.have)
	if memory || d.Away {
		d.weight += 50
	}
	p.plan.box = c.pod.only(d.Witness).box
	p.have.box = p.plan.box
	if d.Plan, d.Have = p.plan.words(six), p.have.words(six); memory {
		d.Plan, d.Have = d.Plan+p.plan.memory(), d.Have+p.have.memory()
	}
	return d
}

// usual returns the values that a witness is given where its box allows it, the most usual first.
func usual(p *Pod, six, inbound bool) [fields][]Number {
	address := func(four, six6 string) Number {
		if six {
			four = six6
		}
		return Address(netip.MustParseAddr(four))
	}
	numbers := func(values ...uint64) (all []Number) {
		for _, v := range values {
			all = append(all, N(v))
		}
		return all
	}
	u := [fields][]Number{
		Protocol: numbers(6, 17), Source: {address("198.51.100.1", "2001:db8:1::1")}, Destination: {address("203.0.113.9", "2001:db8::9")},
		SourcePort: numbers(40000), DestinationPort: numbers(443, 80, 8080), UID: numbers(1000, 0), GID: numbers(1000, 0), Mark: numbers(0),
		ConnMark: numbers(0), CTState: numbers(fresh, established, invalid, related, untracked), Transparent: numbers(0), Listening: numbers(1),
	}
	for _, i := range p.interfaces {
		for _, a := range i.addresses {
			if a.Is6() == six {
				u[Destination], u[Source] = append(u[Destination], Address(a)), append(u[Source], Address(a))
			}
		}
	}
	u[Destination] = append(u[Destination], address("127.0.0.1", "::1"))
	if inbound { // forwarded packets are less usual than those for the pod
		u[Destination] = append(u[Destination][1:], u[Destination][0])
	}
	return u
}

// witness returns one of some packets, and how unusual it is.
func witness(p *Pod, six bool, f packets) (packet rules.Packet, weight int) {
	u := usual(p, six, f.inbound)
	var v [fields]Number
	for x := range v {
		v[x] = f.box[x].all()[0].First
		rank := slices.IndexFunc(u[x], f.box[x].has)
		if rank >= 0 {
			v[x] = u[x][rank]
		} else if Field(x) != In && Field(x) != Out {
			rank = 10
		}
		if Field(x) == CTState || Field(x) == Mark || Field(x) == Protocol { // rarely seen in practice
			rank *= 3
		}
		weight += max(rank, 0)
	}
	if !f.inbound && !f.owned {
		weight += 20
	}
	return p.packet(six, &f, v), weight
}

// packet returns the one that has these values.
func (p *Pod) packet(six bool, f *packets, v [fields]Number) (packet rules.Packet) {
	if f.inbound {
		packet.Direction, packet.In = rules.Inbound, p.names[v[In].lo]
	}
	packet.Protocol = fmt.Sprintf("protocol %d", v[Protocol].lo)
	for name, number := range protocols {
		if number == v[Protocol].lo {
			packet.Protocol = name
		}
	}
	packet.Source = netip.AddrPortFrom(v[Source].address(six), uint16(v[SourcePort].lo))
	packet.Destination = netip.AddrPortFrom(v[Destination].address(six), uint16(v[DestinationPort].lo))
	packet.Out, packet.Socket = p.names[v[Out].lo], f.owned
	if packet.Socket {
		packet.UID, packet.GID = uint32(v[UID].lo), uint32(v[GID].lo)
	}
	packet.Mark, packet.ConnMark = uint32(v[Mark].lo), uint32(v[ConnMark].lo)
	packet.State, packet.Transparent = rules.CTState(v[CTState].lo), v[Transparent].lo == 1
	return packet
}

// String says what becomes of the witness on either side.
func (d Difference) String() string {
	when := ""
	if d.Away {
		when = ", while the proxy does not listen,"
	}
	return fmt.Sprintf("%s: the plan%s %s, the kernel %s", d.Witness, when, d.Plan, d.Have)
}

// to returns where one of the packets goes now.
func (f *packets) to(six bool) netip.AddrPort {
	return netip.AddrPortFrom(f.value(f.dst).address(six), uint16(f.value(f.dport).lo))
}

// words says where one of the packets ends.
func (f *packets) words(six bool) string {
	to := f.to(six)
	switch f.kind {
	case rules.Redirected:
		return fmt.Sprintf("gives it to port %d", to.Port())
	case rules.TProxied:
		return fmt.Sprintf("gives it to port %d by TPROXY", f.listener)
	case rules.Delivered:
		return fmt.Sprintf("delivers it to %s", to)
	case rules.Leaves:
		if f.value(f.dst) == f.value(entered(Destination)) && f.value(f.dport) == f.value(entered(DestinationPort)) {
			return "lets it leave"
		}
		return fmt.Sprintf("lets it leave for %s", to)
	case rules.Dropped:
		return "drops it"
	case rules.Refused:
		return "refuses it"
	}
	return "does with it what cannot be known"
}

func (f *packets) memory() string {
	text := fmt.Sprintf(" with zone %d and connmark %#x", f.zone, f.value(f.connMark).lo)
	if f.untracked {
		text += " untracked"
	}
	return text
}
