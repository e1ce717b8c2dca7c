// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules/effect"
)

// steady reports whether nothing but netlink changes what a set holds, which moves the generation: it is no map, and its
// elements do not expire and are not added by packets.
func steady(set object) bool {
	flags, _ := setShape(set)
	return flags&^(unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT|unix.NFT_SET_INTERVAL) == 0
}

// readSetsOfOthers reads the sets that rules of any table but the native one ask, as long as they are steady. What is beyond
// the bound is left out: such a set may hold anything.
func (s *state) readSetsOfOthers(k kernel) error {
	asked, err := s.setsNamed("lookup", unix.NFTA_LOOKUP_SET, object.isNative)
	if err != nil || len(asked) == 0 {
		return err
	}
	messages, err := k.ask(getSets, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return err
	}
	all, err := objects(messages, k.spare, readSet)
	if err != nil {
		return err
	}
	for _, set := range all {
		if _, met := familyNames[set.family]; !met || set.isNative() || !asked[set.key()] || !steady(set) {
			continue
		}
		if len(s.sets) == k.limit().sets {
			break
		}
		held, err := heldBy(k, set)
		if errors.Is(err, ErrTooMuch) {
			if err := k.reopen(); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		s.sets, s.elements = append(s.sets, set), append(s.elements, held)
	}
	s.sets, s.elements = sorted(s.sets), sorted(s.elements)
	return nil
}

// setsNamed returns the sets, by their keys, that expressions of one kind name, except for those of some rules. iptables has
// no sets.
func (s state) setsNamed(kind string, attribute int, except func(object) bool) (map[string]bool, error) {
	found := map[string]bool{}
	for _, o := range s.rules {
		if o.ofIPTables() || except(o) {
			continue
		}
		err := eachExpression(o.expressions, func(is string, a attributes) error {
			if is == kind {
				found[object{family: o.family, table: o.table, chain: a.values[attribute]}.key()] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// values returns what a set holds; false where that may change by itself or by packets.
func (v view) values(o object, set string, of loaded) (effect.Set, bool) {
	key := object{family: o.family, table: o.table, chain: append([]byte(set), 0)}
	found, held := key.of(v.sets), key.of(v.elements)
	if len(found) != 1 || len(held) != 1 || !steady(found[0]) || v.written[key.key()] {
		return effect.Set{}, false
	}
	flags, length := setShape(found[0])
	elements, plain := elementsOfSet(held[0].text)
	if !plain || length != of.length || of.mask != nil {
		return effect.Set{}, false
	}
	return of.set(elements, flags&unix.NFT_SET_INTERVAL != 0)
}

func setShape(o object) (flags uint32, length int) {
	eachField(o.text, func(f field) {
		switch f.kind {
		case unix.NFTA_SET_FLAGS:
			flags = f.number()
		case unix.NFTA_SET_KEY_LEN:
			length = int(f.number())
		}
	})
	return flags, length
}

// elementsOfSet reads what elementsText wrote. Elements with more than a key are not plain: some ask for more.
func elementsOfSet(text []byte) (all []setElement, plain bool) {
	plain = true
	eachField(text, func(f field) {
		var e setElement
		eachField(f.value, func(f field) {
			switch f.kind {
			case unix.NFTA_SET_ELEM_KEY:
				e.key = dataOf(f.value)
			case unix.NFTA_SET_ELEM_FLAGS:
				e.end = f.number()&unix.NFT_SET_ELEM_INTERVAL_END != 0
			case unix.NFTA_SET_ELEM_USERDATA: // a comment
			default:
				plain = false
			}
		})
		all = append(all, e)
	})
	slices.SortStableFunc(all, func(a, b setElement) int {
		if c := bytes.Compare(a.key, b.key); c != 0 || a.end == b.end {
			return c
		}
		if a.end { // what ends where another begins
			return -1
		}
		return 1
	})
	return all, plain
}

// set returns the values that elements stand for.
func (l loaded) set(elements []setElement, intervals bool) (effect.Set, bool) {
	var spans []effect.Span
	for i, e := range elements {
		if e.end {
			continue
		}
		last := e.key
		if intervals {
			last = bytes.Repeat([]byte{0xff}, len(e.key))
			if i+1 < len(elements) && elements[i+1].end {
				last = before(elements[i+1].key)
			} else if i+1 < len(elements) {
				return effect.Set{}, false
			}
		}
		s, ok := l.span(e.key, last)
		if !ok || l.native && intervals {
			return effect.Set{}, false
		}
		spans = append(spans, s)
	}
	return effect.Union(spans...), true
}

// before returns the number before one in the network's order.
func before(key []byte) []byte {
	key = slices.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]--; key[i] != 0xff {
			break
		}
	}
	return key
}
