// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Bounds are where the sets of addresses begin, or end, that rules ask for. To rules, addresses between the same two bounds
// are alike.
type Bounds struct{ four, six []Number }

// mostBounds bounds what is kept of them: whoever has NET_ADMIN in a pod chooses how many there are.
const mostBounds = 256

// Add adds the bounds of both sides of a comparison.
func (b *Bounds) Add(sides ...*Side) {
	for _, s := range sides {
		e := edges{seen: map[*Chain]bool{}}
		e.set(Single(N(0x7f000001))) // where REDIRECT leads
		e.set(s.fixed)
		e.set(linkLocal6)
		for _, bases := range s.hooks {
			for _, base := range bases {
				e.chain(base.Chain)
			}
		}
		list := &b.four
		if s.six {
			list = &b.six
		}
		*list = append(*list, e.found...)
		slices.SortFunc(*list, Number.compare)
		*list = slices.Compact(*list)
	}
}

// Few reports whether they may be kept.
func (b *Bounds) Few() bool { return len(b.four)+len(b.six) <= mostBounds }

// Symbols names interfaces and the places of their addresses among the bounds. Where two pods have the same, a comparison
// has the same answer for both; only its witnesses may have other addresses.
func (b *Bounds) Symbols(interfaces []rules.Interface) string {
	var text strings.Builder
	seen := map[string]int{} // an address that is there twice is not alike to two
	for _, i := range interfaces {
		fmt.Fprintf(&text, "%q", i.Name)
		for _, a := range i.Addresses {
			bounds, at := b.four, Address(a)
			if a.Is6() {
				bounds = b.six
			}
			place, exact := slices.BinarySearchFunc(bounds, at, Number.compare)
			if exact {
				place++
			}
			if _, known := seen[a.String()]; !known {
				seen[a.String()] = len(seen)
			}
			fmt.Fprintf(&text, " %t %d %d", a.Is6(), place, seen[a.String()])
		}
	}
	return text.String()
}

// edges collects the bounds of a side.
type edges struct {
	found []Number
	seen  map[*Chain]bool
}

func (e *edges) set(s Set) {
	for _, x := range s.all() {
		e.found = append(e.found, x.First, x.Last.next())
	}
}

func (e *edges) chain(c *Chain) {
	if c == nil || e.seen[c] {
		return
	}
	e.seen[c] = true
	for i := range c.Rules {
		e.rule(&c.Rules[i])
	}
}

func (e *edges) rule(r *Rule) {
	for _, c := range r.Conditions {
		if c.Field == Source || c.Field == Destination {
			e.set(c.Set)
		}
	}
	for _, a := range r.Actions {
		if a.Verb == DNAT {
			e.set(Single(a.Value))
		}
		if e.chain(a.Chain); a.Rest != nil {
			e.rule(a.Rest)
		}
	}
}
