// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// condition is what a packet must meet, in the order in which it is asked.
type condition struct {
	asks    []ask
	without []ask // owners that it must not have
}

var errNoProtocol = errors.New("asks for ports without a protocol")

// suits returns an error for a rule that iptables would refuse too, and for one in raw that asks about the connection: a
// zone that was just chosen looks like one there, and differently in the two dialects.
func suits(table string, r rules.Rule) error {
	asked := func(m rules.Match) bool { return slices.Contains(r.Match, m) }
	tcp, udp := rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)
	connection := slices.ContainsFunc(r.Match, func(m rules.Match) bool { _, ok := m.(rules.ConnMark); return ok })
	switch r.Target.(type) {
	case rules.Redirect, rules.DNAT, rules.TProxy: // DNAT may go without where it leaves the port
		if d, ok := r.Target.(rules.DNAT); ok && d.Port == 0 {
			break
		}
		if !asked(tcp) && !asked(udp) {
			return errNoProtocol
		}
	case rules.RejectWith:
		if r.Target == rules.Target(rules.RejectReset) && !asked(tcp) {
			return errors.New("resets what need not be TCP")
		}
	case rules.SetConnMark, rules.SaveMark, rules.RestoreMark:
		connection = true
	}
	if connection && table == "raw" {
		return errors.New("there is no connection in raw yet whose mark could be known")
	}
	return nil
}

// ask loads something of the packet and compares it, or ends the rule.
type ask func(*wire)

func (c condition) appendTo(w *wire) {
	for _, a := range c.asks {
		a(w)
	}
}

// condition translates those of a line, and makes the sets that it needs.
func (t *translation) condition(l *line) (condition, error) {
	var c condition
	var protocols []string
	family := false
	var uids, gids []rules.Match
	for i, m := range l.Match {
		if p := protocolOf(m); p != "" && !slices.Contains(protocols, p) {
			protocols = append(protocols, p)
			c.asks = append(c.asks, func(w *wire) { matchProtocol(w, rules.Protocol(p)) })
		}
		if !family {
			if _, ok := addressOf(m); ok { // for nft to show an address as such, the family must be asked first
				family = true
				c.asks = append(c.asks, func(w *wire) { matchFamily(w, t.family) })
			}
		}
		switch m := m.(type) {
		case rules.Protocol:
			continue
		case rules.DestinationPorts:
			if len(protocols) == 0 {
				return c, errNoProtocol
			}
		case rules.OwnerUID:
			if m.Not {
				uids = append(uids, rules.OwnerUID{ID: m.ID})
				continue
			}
		case rules.OwnerGID:
			if m.Not {
				gids = append(gids, rules.OwnerGID{ID: m.ID})
				continue
			}
		}
		a, err := t.ask(m, l.listAt(i))
		if err != nil {
			return c, err
		}
		c.asks = append(c.asks, a)
	}
	for _, owners := range [][]rules.Match{uids, gids} {
		if len(owners) > 0 {
			a, err := t.ask(owners[0], owners)
			if err != nil {
				return c, err
			}
			c.without = append(c.without, a)
		}
	}
	return c, nil
}

// ask translates one condition; values are what it may be in its place.
func (t *translation) ask(m rules.Match, values []rules.Match) (ask, error) {
	if prefix, ok := addressOf(m); ok && prefix.Addr().Is4() != (t.family == rules.IPv4) {
		return nil, fmt.Errorf("%s is no address of this family", prefix)
	}
	if len(values) > 1 {
		return t.askList(m, values)
	}
	switch m := m.(type) {
	case rules.InInterface:
		return func(w *wire) { matchInterface(w, unix.NFT_META_IIFNAME, string(m)) }, nil
	case rules.OutInterface:
		return func(w *wire) { matchInterface(w, unix.NFT_META_OIFNAME, string(m)) }, nil
	case rules.Source:
		return func(w *wire) { matchAddress(w, t.family, false, m.Prefix, false) }, nil
	case rules.Destination:
		return func(w *wire) { matchAddress(w, t.family, true, m.Prefix, m.Not) }, nil
	case rules.SourcePort:
		return func(w *wire) { matchPort(w, sourcePort, m.Port, false) }, nil
	case rules.DestinationPort:
		return func(w *wire) { matchPort(w, destinationPort, m.Port, m.Not) }, nil
	case rules.DestinationPorts:
		return t.askPorts(m), nil
	case rules.OwnerUID:
		return func(w *wire) { matchOwner(w, unix.NFT_META_SKUID, m.ID) }, nil
	case rules.OwnerUIDs:
		return func(w *wire) { matchOwners(w, unix.NFT_META_SKUID, m.First, m.Last) }, nil
	case rules.OwnerGID:
		return func(w *wire) { matchOwner(w, unix.NFT_META_SKGID, m.ID) }, nil
	case rules.CTState:
		return func(w *wire) { matchState(w, m) }, nil
	case rules.PacketMark:
		return func(w *wire) { matchMark(w, m) }, nil
	case rules.ConnMark:
		return func(w *wire) { connection(w, unix.NFT_CT_MARK); compareNumber(w, m.Mark) }, nil
	}
	return nil, fmt.Errorf("%T cannot be written by netlink", m)
}

func (t *translation) askPorts(m rules.DestinationPorts) ask {
	list := m.Ports.All()
	if len(list) == 1 && list[0].First == list[0].Last {
		return func(w *wire) { matchPort(w, destinationPort, list[0].First, m.Not) }
	}
	set, flags := t.set(portIntervals(list)), uint32(0)
	if m.Not {
		flags = unix.NFT_LOOKUP_F_INV
	}
	return func(w *wire) {
		payload(w, unix.NFT_PAYLOAD_TRANSPORT_HEADER, destinationPort, 2)
		lookup(w, set, flags)
	}
}

// askList asks whether what a packet has is in a set.
func (t *translation) askList(m rules.Match, values []rules.Match) (ask, error) {
	set := t.set(setOf(values))
	var load func(*wire)
	switch m.(type) {
	case rules.SourcePort:
		load = func(w *wire) { payload(w, unix.NFT_PAYLOAD_TRANSPORT_HEADER, sourcePort, 2) }
	case rules.DestinationPort, rules.DestinationPorts:
		load = func(w *wire) { payload(w, unix.NFT_PAYLOAD_TRANSPORT_HEADER, destinationPort, 2) }
	case rules.Source:
		load = func(w *wire) { loadAddress(w, t.family, false) }
	case rules.Destination:
		load = func(w *wire) { loadAddress(w, t.family, true) }
	case rules.OwnerUID:
		load = func(w *wire) { meta(w, unix.NFT_META_SKUID) }
	case rules.OwnerGID:
		load = func(w *wire) { meta(w, unix.NFT_META_SKGID) }
	default:
		return nil, fmt.Errorf("%T cannot be written as a set", m)
	}
	return func(w *wire) { load(w); lookup(w, set, 0) }, nil
}

func matchFamily(w *wire, family rules.Family) {
	meta(w, unix.NFT_META_NFPROTO)
	compare(w, unix.NFT_CMP_EQ, []byte{nfFamily(family)})
}

func matchOwner(w *wire, key, id uint32) {
	meta(w, key)
	compareNumber(w, id)
}

// matchOwners compares numbers with the highest byte first, as bytes are compared.
func matchOwners(w *wire, key, first, last uint32) {
	meta(w, key)
	toNetworkOrder(w, 4)
	compare(w, unix.NFT_CMP_GTE, binary.BigEndian.AppendUint32(nil, first))
	compare(w, unix.NFT_CMP_LTE, binary.BigEndian.AppendUint32(nil, last))
}

func compareNumber(w *wire, n uint32) {
	compare(w, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, n))
}

// matchState looks for any of the states.
func matchState(w *wire, m rules.CTState) { compareState(w, m, unix.NFT_CMP_NEQ) }

func notUntracked(w *wire) { compareState(w, rules.StateUntracked, unix.NFT_CMP_EQ) }

func compareState(w *wire, m rules.CTState, withNone uint32) {
	connection(w, unix.NFT_CT_STATE)
	keep(w, binary.NativeEndian.AppendUint32(nil, uint32(states(m, nfStates))))
	compare(w, withNone, make([]byte, 4))
}

func loadAddress(w *wire, family rules.Family, destination bool) {
	offset, length := source4, 4
	if family == rules.IPv6 {
		offset, length = source6, 16
	}
	if destination {
		offset += length
	}
	payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, offset, length)
}
