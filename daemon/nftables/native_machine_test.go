// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// passing is a packet on its way through the rules of one hook, and what they have done with it.
type passing struct {
	family           rules.Family
	protocol         string // TCP, UDP or "" for one without ports
	source, dest     netip.AddrPort
	in, out          string
	socket           bool // it has an owner
	uid, gid         uint32
	state            rules.CTState
	mark, connection uint32
	listener         bool // somebody listens where TPROXY leads
	zone             uint16

	end string // "" while nothing has decided
}

func (p *passing) tracked() bool {
	return p.state&(rules.StateNew|rules.StateRelated|rules.StateEstablished) != 0
}

// The targets, as the kernel's xt_*.c and nft_*.c do them alike.

func (p *passing) setZone(zone uint16) {
	if !p.tracked() { // what is there already stays
		p.zone, p.state, p.connection = zone, rules.StateNew, 0
	}
}

func (p *passing) remember(mark uint32) {
	if p.tracked() && p.zone == 0 { // a zone's template is nobody's connection
		p.connection = mark
	}
}

// machine is what nf_tables does with the expressions of a table: each loads, compares or decides, and what
// cannot be loaded ends the rule.
type machine struct {
	native
	registers [unix.NFT_REG_4 + 1][16]byte
}

// run sends a packet through a base chain.
func (m *machine) run(base string, p *passing) error {
	if !slices.ContainsFunc(m.chains, func(c nativeChain) bool { return c.name == base }) {
		return nil // the plan says nothing there
	}
	_, err := m.chain(base, p, 0)
	return err
}

// verdict is what a rule says of where to go on.
type nftVerdict struct {
	code  int32
	chain string
}

const goOnCode = unix.NFT_CONTINUE

func (m *machine) chain(name string, p *passing, depth int) (ended bool, err error) {
	i := slices.IndexFunc(m.chains, func(c nativeChain) bool { return c.name == name })
	if i < 0 || depth > deepest {
		return false, fmt.Errorf("no chain %s, or %d jumps", name, depth)
	}
	for _, r := range m.chains[i].rules {
		v, err := m.rule(r.expressions, p)
		if err != nil {
			return false, fmt.Errorf("%s: %s: %w", name, r.comment, err)
		}
		switch v.code {
		case accept, drop:
			return true, nil
		case unix.NFT_RETURN:
			return false, nil
		case unix.NFT_GOTO:
			return m.chain(v.chain, p, depth+1)
		case unix.NFT_JUMP:
			if ended, err := m.chain(v.chain, p, depth+1); ended || err != nil {
				return ended, err
			}
		}
	}
	return false, nil
}

func (m *machine) rule(expressions []byte, p *passing) (v nftVerdict, err error) {
	v.code = goOnCode
	err = eachAttribute(expressions, func(element attribute) error {
		if v.code != goOnCode {
			return nil
		}
		kind, a, err := splitExpression(element.value)
		if err != nil {
			return err
		}
		v, err = m.expression(kind, a, p)
		return err
	})
	if v.code == unix.NFT_BREAK {
		v.code = goOnCode
	}
	return v, err
}

var (
	goOnVerdict  = nftVerdict{code: goOnCode}
	breakVerdict = nftVerdict{code: unix.NFT_BREAK}
)

// unless ends the rule where something is not so.
func unless(ok bool) nftVerdict {
	if ok {
		return goOnVerdict
	}
	return breakVerdict
}

func (m *machine) expression(kind string, a attributes, p *passing) (nftVerdict, error) {
	number := func(kind int) uint32 { n, _ := a.number(kind); return n }
	switch kind {
	case "meta":
		if a.values[unix.NFTA_META_SREG] != nil {
			p.mark = binary.NativeEndian.Uint32(m.registers[number(unix.NFTA_META_SREG)][:])
			return goOnVerdict, nil
		}
		return m.load(number(unix.NFTA_META_DREG), p.meta(number(unix.NFTA_META_KEY))), nil
	case "ct":
		if a.values[unix.NFTA_CT_SREG] != nil {
			return goOnVerdict, m.setConnection(number(unix.NFTA_CT_KEY), number(unix.NFTA_CT_SREG), p)
		}
		return m.load(number(unix.NFTA_CT_DREG), p.ct(number(unix.NFTA_CT_KEY))), nil
	case "payload":
		return m.load(number(unix.NFTA_PAYLOAD_DREG), p.payload(number(unix.NFTA_PAYLOAD_BASE),
			int(number(unix.NFTA_PAYLOAD_OFFSET)), int(number(unix.NFTA_PAYLOAD_LEN)))), nil
	case "bitwise":
		r := &m.registers[number(unix.NFTA_BITWISE_SREG)]
		for i, mask := range dataOf(a.values[unix.NFTA_BITWISE_MASK]) {
			r[i] &= mask
		}
		return goOnVerdict, nil
	case "cmp":
		data := dataOf(a.values[unix.NFTA_CMP_DATA])
		order := bytes.Compare(m.registers[number(unix.NFTA_CMP_SREG)][:len(data)], data)
		holds := map[uint32]bool{unix.NFT_CMP_EQ: order == 0, unix.NFT_CMP_NEQ: order != 0, unix.NFT_CMP_GTE: order >= 0, unix.NFT_CMP_LTE: order <= 0}
		return unless(holds[number(unix.NFTA_CMP_OP)]), nil
	case "byteorder":
		if number(unix.NFTA_BYTEORDER_LEN) != 4 || number(unix.NFTA_BYTEORDER_SIZE) != 4 {
			return goOnVerdict, fmt.Errorf("byteorder of %d bytes", number(unix.NFTA_BYTEORDER_LEN))
		}
		n := binary.NativeEndian.Uint32(m.registers[number(unix.NFTA_BYTEORDER_SREG)][:])
		return m.load(number(unix.NFTA_BYTEORDER_DREG), binary.BigEndian.AppendUint32(nil, n)), nil
	case "lookup":
		found, err := m.lookup(name(a.values[unix.NFTA_LOOKUP_SET]), m.registers[number(unix.NFTA_LOOKUP_SREG)])
		return unless(found != (number(unix.NFTA_LOOKUP_FLAGS) == unix.NFT_LOOKUP_F_INV)), err
	case "counter":
		return goOnVerdict, nil
	case "immediate":
		if number(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
			return m.load(number(unix.NFTA_IMMEDIATE_DREG), dataOf(a.values[unix.NFTA_IMMEDIATE_DATA])), nil
		}
		return p.decide(a.values[unix.NFTA_IMMEDIATE_DATA])
	}
	return m.act(kind, a, p)
}

// act is an expression that ends a packet's way.
func (m *machine) act(kind string, a attributes, p *passing) (nftVerdict, error) {
	register := func(kind int) []byte { n, _ := a.number(kind); return m.registers[n][:] }
	switch kind {
	case "redir":
		p.end = fmt.Sprint("redirect ", binary.BigEndian.Uint16(register(unix.NFTA_REDIR_REG_PROTO_MIN)))
		return nftVerdict{code: accept}, nil
	case "nat":
		to, _ := netip.AddrFromSlice(register(unix.NFTA_NAT_REG_ADDR_MIN)[:len(anyOf(p.family).AsSlice())])
		port := p.dest.Port()
		if a.values[unix.NFTA_NAT_REG_PROTO_MIN] != nil {
			port = binary.BigEndian.Uint16(register(unix.NFTA_NAT_REG_PROTO_MIN))
		}
		p.end = fmt.Sprint("dnat ", netip.AddrPortFrom(to, port))
		return nftVerdict{code: accept}, nil
	case "reject":
		p.end = "reject " + string(rules.RejectReset)
		if kind, _ := a.number(unix.NFTA_REJECT_TYPE); kind == unix.NFT_REJECT_ICMPX_UNREACH {
			p.end = "reject " + string(map[rules.Family]rules.RejectWith{rules.IPv4: rules.RejectPort4, rules.IPv6: rules.RejectPort}[p.family])
		}
		return nftVerdict{code: drop}, nil
	case "tproxy":
		if family, _ := a.number(tproxyFamily); family != uint32(nfFamily(p.family)) || !p.listener {
			return breakVerdict, nil
		}
		to := anyOf(p.family)
		if a.values[tproxyAddress] != nil {
			to, _ = netip.AddrFromSlice(register(tproxyAddress)[:len(to.AsSlice())])
		}
		p.end = fmt.Sprint("tproxy ", netip.AddrPortFrom(to, binary.BigEndian.Uint16(register(tproxyPort))))
		return goOnVerdict, nil
	}
	return goOnVerdict, fmt.Errorf("expression %q", kind)
}

func anyOf(family rules.Family) netip.Addr {
	if family == rules.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// load puts a value into a register; nil is none to be had.
func (m *machine) load(register uint32, value []byte) nftVerdict {
	if value == nil {
		return breakVerdict
	}
	m.registers[register] = [16]byte{}
	copy(m.registers[register][:], value)
	return goOnVerdict
}

func native32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func (p *passing) meta(key uint32) []byte {
	switch key {
	case unix.NFT_META_NFPROTO:
		return []byte{nfFamily(p.family)}
	case unix.NFT_META_L4PROTO:
		return []byte{max(protocolNumbers[p.protocol], unix.IPPROTO_ICMP)}
	case unix.NFT_META_IIFNAME:
		return append([]byte(p.in), 0)
	case unix.NFT_META_OIFNAME:
		return append([]byte(p.out), 0)
	case unix.NFT_META_MARK:
		return native32(p.mark)
	case unix.NFT_META_SKUID:
		if p.socket {
			return native32(p.uid)
		}
	case unix.NFT_META_SKGID:
		if p.socket {
			return native32(p.gid)
		}
	}
	return nil
}

func (p *passing) ct(key uint32) []byte {
	switch {
	case key == unix.NFT_CT_STATE:
		return native32(uint32(states(p.state, nfStates)))
	case key == unix.NFT_CT_MARK && p.tracked():
		return native32(p.connection)
	}
	return nil
}

func (m *machine) setConnection(key, register uint32, p *passing) error {
	switch key {
	case unix.NFT_CT_MARK:
		p.remember(binary.NativeEndian.Uint32(m.registers[register][:]))
	case unix.NFT_CT_ZONE:
		p.setZone(binary.NativeEndian.Uint16(m.registers[register][:]))
	default:
		return fmt.Errorf("ct set %d", key)
	}
	return nil
}

func (p *passing) payload(base uint32, offset, length int) []byte {
	var header []byte
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && p.family == rules.IPv6:
		header = make([]byte, source6)
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = make([]byte, source4)
	case p.protocol == "":
		return nil
	default:
		header = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.source.Port()), p.dest.Port())
		return header[offset : offset+length]
	}
	header = append(append(header, p.source.Addr().AsSlice()...), p.dest.Addr().AsSlice()...)
	return header[offset : offset+length]
}

func (m *machine) lookup(set string, key [16]byte) (found bool, err error) {
	i := slices.IndexFunc(m.sets, func(s nativeSet) bool { return s.name == set })
	if i < 0 {
		return false, fmt.Errorf("no set %s", set)
	}
	s := m.sets[i]
	for _, e := range s.elements {
		switch order := bytes.Compare(e.key, key[:s.length]); {
		case s.flags&unix.NFT_SET_INTERVAL != 0 && order <= 0:
			found = !e.end // the last one before the key counts
		case order == 0:
			found = true
		}
	}
	return found, nil
}

func (p *passing) decide(data []byte) (v nftVerdict, err error) {
	err = eachAttribute(data, func(a attribute) error {
		return eachAttribute(a.value, func(a attribute) error {
			switch a.kind {
			case unix.NFTA_VERDICT_CODE:
				v.code = int32(a.number())
			case unix.NFTA_VERDICT_CHAIN:
				v.chain = name(a.value)
			}
			return nil
		})
	})
	switch {
	case v.code == accept && p.end == "":
		p.end = "accept"
	case v.code == drop:
		p.end = "drop"
	}
	return v, err
}
