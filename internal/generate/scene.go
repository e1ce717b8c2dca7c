// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// scene is what the packets of one family can differ in: the values that its rules name, and others.
type scene struct {
	own, outside, far netip.Addr
	names             []string // of interfaces, lo not among them
	destinations      []netip.Addr
	owners            []socket
	protocols         []string // besides TCP, that packets have before a rule asks for one
}

type socket struct {
	socket   bool
	uid, gid uint32
}

const nobody = 65534 // an owner that no rule names

func newScene(rs rules.Ruleset, interfaces []rules.Interface) scene {
	s := scene{outside: netip.MustParseAddr("192.0.2.1"), far: netip.MustParseAddr("198.51.100.1")}
	loopback := []string{"127.0.0.1", "127.0.0.6", "127.9.9.9"}
	if rs.Family == rules.IPv6 {
		s.outside, s.far = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::1")
		loopback = []string{"::1", "::6"}
	}
	for _, i := range interfaces {
		if i.Name != "lo" {
			s.names = append(s.names, i.Name)
		}
		for _, addr := range i.Addresses {
			if !s.own.IsValid() && addr.Is6() == s.outside.Is6() {
				s.own = addr
			}
		}
	}
	s.destinations = []netip.Addr{s.outside, s.own}
	for _, addr := range loopback {
		s.destinations = append(s.destinations, netip.MustParseAddr(addr))
	}
	uids, gids := []uint32{nobody}, []uint32{nobody}
	for _, m := range matches(rs) {
		switch v := m.Value.(type) {
		case rules.Addresses:
			if m.Field == rules.FieldDestination {
				s.destinations = append(append(s.destinations, within(v.Prefix)...), beside(v.Prefix))
			}
		case rules.IDs:
			if m.Field == rules.FieldUID {
				uids = append(uids, v.First)
			} else {
				gids = append(gids, v.First)
			}
		case rules.Transport:
			if v == rules.ICMP || v == rules.ICMPv6 { // such rules decide about what has no ports, too
				s.protocols = []string{rules.UDP, string(v), "sctp"}
			}
		}
	}
	slices.SortFunc(s.destinations, netip.Addr.Compare)
	s.destinations = slices.Compact(s.destinations)
	s.owners = []socket{{}}
	for _, uid := range unique(uids) {
		for _, gid := range unique(gids) {
			s.owners = append(s.owners, socket{true, uid, gid})
		}
	}
	return s
}

func unique(ids []uint32) []uint32 {
	slices.Sort(ids)
	return slices.Compact(ids)
}

// matches returns every condition of a rule set.
func matches(rs rules.Ruleset) []rules.Match {
	var all []rules.Match
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				all = append(all, r.Match...)
			}
		}
	}
	return all
}

// within returns the first and the last address of a prefix. Nothing goes to the unspecified address: where that is
// the first, another one stands for it, which of all addresses is one that anybody can have.
func within(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	if anybody := first.AsSlice(); first.IsUnspecified() {
		anybody[0] = 0x20
		if first, _ = netip.AddrFromSlice(anybody); !p.Contains(first) {
			first = p.Masked().Addr().Next()
		}
	}
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return []netip.Addr{first, addr}
}

// beside returns an address that a prefix would have if it were one bit shorter, or where that is the
// unspecified address, two bits.
func beside(p netip.Prefix) netip.Addr {
	for bit := p.Bits() - 1; bit >= 0; bit-- {
		other := p.Masked().Addr().AsSlice()
		other[bit/8] ^= 0x80 >> (bit % 8)
		if addr, _ := netip.AddrFromSlice(other); !addr.IsUnspecified() {
			return addr
		}
	}
	return within(p)[0] // beside all addresses there is none
}

// edit changes one thing about a packet.
type edit func(*rules.Packet)

// meet returns edits that each make the packet fulfil the condition, as far as any one can.
func (s scene) meet(m rules.Match) []edit {
	if m.Not {
		return s.avoid(m)
	}
	switch v := m.Value.(type) {
	case rules.Transport:
		return edits(func(p *rules.Packet) { p.Protocol = string(v) })
	case rules.Addresses:
		return each(within(v.Prefix), setAddress(m.Field))
	case rules.Link:
		return edits(func(p *rules.Packet) { s.by(m.Field)(p, string(v)) })
	case rules.Port:
		return edits(func(p *rules.Packet) { p.Protocol = v.Protocol; setPort(m.Field)(p, v.Number) })
	case rules.PortList:
		var ends []uint16
		for _, r := range v.All() {
			ends = append(ends, r.First, r.Last)
		}
		return each(ends, setPort(m.Field))
	case rules.IDs:
		return edits(func(p *rules.Packet) { s.owned(p); *owner(p, m.Field) = v.First })
	case rules.CTState:
		return states(func(state rules.CTState) bool { return v&state != 0 })
	case rules.Mark:
		if m.Field == rules.FieldConnMark {
			return edits(func(p *rules.Packet) { p.ConnMark, p.State = uint32(v), rules.StateEstablished })
		}
		return edits(func(p *rules.Packet) { s.marked(p); p.Mark = uint32(v) })
	}
	return nil
}

// avoid returns an edit that changes only a packet that has what the condition must not find.
func (s scene) avoid(m rules.Match) []edit {
	return edits(func(p *rules.Packet) {
		switch v := m.Value.(type) {
		case rules.Addresses:
			if v.Contains(p.Destination.Addr()) {
				setDestination(p, s.own)
			}
		case rules.Port:
			if p.Destination.Port() == v.Number {
				setPort(m.Field)(p, v.Number+1)
			}
		case rules.PortList:
			if v.Contains(p.Destination.Port()) {
				setPort(m.Field)(p, 9999)
			}
		case rules.IDs:
			s.owned(p)
			if id := owner(p, m.Field); *id == v.First {
				*id = nobody
			}
		case rules.Mark:
			if p.Mark == uint32(v) {
				p.Mark = 0
			}
		}
	})
}

// miss returns edits that each make the packet fail the condition, by as little as can be.
func (s scene) miss(m rules.Match) []edit {
	switch v := m.Value.(type) {
	case rules.Transport:
		var others []string
		for _, protocol := range []string{rules.TCP, rules.UDP} {
			if protocol != string(v) {
				others = append(others, protocol)
			}
		}
		return each(others, func(p *rules.Packet, protocol string) { p.Protocol = protocol })
	case rules.Addresses:
		switch {
		case m.Field == rules.FieldSource:
			return each([]netip.Addr{beside(v.Prefix)}, setSource)
		case m.Not:
			return each(within(v.Prefix), setDestination)
		}
		return each([]netip.Addr{beside(v.Prefix), s.own, s.outside}, setDestination)
	case rules.Link:
		return each(append(slices.Clone(s.names), "lo"), s.by(m.Field))
	case rules.Port:
		if m.Not {
			return each([]uint16{v.Number, v.Number + 1}, setPort(m.Field))
		}
		return each([]uint16{v.Number + 1}, setPort(m.Field))
	case rules.PortList:
		var ends []uint16
		for _, r := range v.All() {
			if m.Not {
				ends = append(ends, r.First, r.Last)
			} else {
				ends = append(ends, r.First-1, r.Last+1)
			}
		}
		return each(ends, setPort(m.Field))
	case rules.IDs:
		return s.otherOwner(func(p *rules.Packet) { *owner(p, m.Field) = v.First + 1 }, func(p *rules.Packet) { *owner(p, m.Field) = v.First })
	case rules.CTState:
		return states(func(state rules.CTState) bool { return v&state == 0 })
	case rules.Mark:
		if m.Field == rules.FieldConnMark {
			return edits(func(p *rules.Packet) { p.ConnMark = uint32(v) + 1 })
		}
		return edits(func(p *rules.Packet) { s.marked(p); p.Mark = uint32(v) + 1 }, func(p *rules.Packet) { s.marked(p); p.Mark = uint32(v) })
	}
	return nil
}

func (s scene) otherOwner(all ...edit) []edit {
	var owned []edit
	for _, e := range all {
		owned = append(owned, func(p *rules.Packet) { s.owned(p); e(p) })
	}
	return append(owned, func(p *rules.Packet) { s.owned(p); p.Socket, p.UID, p.GID = false, 0, 0 })
}

func edits(all ...edit) []edit { return all }

func each[T any](values []T, change func(*rules.Packet, T)) []edit {
	var all []edit
	for _, v := range values {
		all = append(all, func(p *rules.Packet) { change(p, v) })
	}
	return all
}

// states returns an edit for each state that is wanted; of a connection that exists, once more where its
// socket is the proxy's.
func states(want func(rules.CTState) bool) []edit {
	var all []edit
	for _, state := range []rules.CTState{rules.StateInvalid, rules.StateEstablished, rules.StateRelated, rules.StateNew, rules.StateUntracked} {
		if want(state) {
			all = append(all, func(p *rules.Packet) { p.State = state })
		}
	}
	if want(rules.StateEstablished) {
		all = append(all, func(p *rules.Packet) { p.State, p.Transparent = rules.StateEstablished, true })
	}
	return all
}

func setSource(p *rules.Packet, addr netip.Addr) {
	p.Source = netip.AddrPortFrom(addr, p.Source.Port())
}

func setDestination(p *rules.Packet, addr netip.Addr) {
	p.Destination = netip.AddrPortFrom(addr, p.Destination.Port())
}

func setAddress(of rules.Field) func(*rules.Packet, netip.Addr) {
	if of == rules.FieldSource {
		return setSource
	}
	return setDestination
}

func setPort(of rules.Field) func(*rules.Packet, uint16) {
	return func(p *rules.Packet, port uint16) {
		end := &p.Destination
		if of == rules.FieldSourcePort {
			end = &p.Source
		}
		*end = netip.AddrPortFrom(end.Addr(), port)
	}
}

// owner returns the packet's user or group.
func owner(p *rules.Packet, of rules.Field) *uint32 {
	if of == rules.FieldGID {
		return &p.GID
	}
	return &p.UID
}

// by returns what makes a packet come in or leave by an interface.
func (s scene) by(of rules.Field) func(*rules.Packet, string) {
	if of == rules.FieldIn {
		return s.arrive
	}
	return s.leave
}

// arrive lets the packet come in by an interface, by lo by way of being sent in the pod.
func (s scene) arrive(p *rules.Packet, name string) {
	if name == "lo" {
		s.leave(p, name)
		return
	}
	p.Direction, p.In = rules.Inbound, name
	if p.Source.Addr() == s.own {
		setSource(p, s.far)
	}
}

// leave lets the packet be sent, and by lo to an address of the pod.
func (s scene) leave(p *rules.Packet, name string) {
	s.sent(p)
	local := p.Destination.Addr().IsLoopback() || p.Destination.Addr() == s.own
	switch {
	case name != "lo":
		p.Out = name
		if local {
			setDestination(p, s.outside)
		}
	case !local:
		setDestination(p, s.own)
	}
}

func (s scene) sent(p *rules.Packet) {
	if p.Direction == rules.Inbound {
		p.Direction, p.In = rules.Outbound, ""
		if p.Source.Addr() == s.far {
			setSource(p, s.own)
		}
	}
}

func (s scene) owned(p *rules.Packet) {
	s.sent(p)
	p.Socket = true
}

// marked makes the packet one that can have a mark from the start: only a socket gives one.
func (s scene) marked(p *rules.Packet) { s.owned(p) }
