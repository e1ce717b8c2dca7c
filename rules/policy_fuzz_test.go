// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// A range is read as the same range however it is written, and never backwards.
func FuzzPortRange(f *testing.F) {
	for _, seed := range []string{"80", "0-65535", "9000-9100", "9100-9000", "65536", "-", "-1", "1-", "007-8", "1-2-3", "+1", " 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := rules.ParsePortRange(text)
		if !ok {
			return
		}
		if r.First > r.Last || strings.Trim(text, "0123456789-") != "" {
			t.Errorf("%q is read as %v", text, r)
		}
		if again, ok := rules.ParsePortRange(fmt.Sprintf("%d-%d", r.First, r.Last)); !ok || again != r {
			t.Errorf("%q is read as %v, and that as %v", text, r, again)
		}
	})
}

// What a policy lets through lies within what it allows, item by item.
func FuzzAnnotationPolicy(f *testing.F) {
	f.Add("15020,443", "15020\n400-500")
	f.Add("10.1.0.0/16,fd00::/8", "10.0.0.0/8\nfd00::/7")
	f.Add("*", "*")
	f.Add("", "")
	f.Add("10.0.0.0/8", "10.1.0.0/16")
	f.Add(" 80 ,,", "80\n")
	f.Add("::ffff:10.0.0.0/104", "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, value, allow string) {
		entries := strings.Split(allow, "\n")
		for _, key := range []string{keyOutPorts, keyOutIPs} {
			node := rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard())}, RuntimeHandlers: []string{""},
				Annotations: []rules.AnnotationPolicy{{Annotation: key, Allow: rules.Allow(entries...), Otherwise: rules.Refuse}}}
			d := node.Decide(asking(keyStatus, "{}", key, value))
			if d.Detail == "" {
				t.Errorf("%s without a reason", d.Action)
			}
			if d.Reason == rules.ReasonForbidden {
				continue
			}
			for item := range strings.SplitSeq(value, ",") {
				item = strings.TrimSpace(item)
				if !slices.ContainsFunc(entries, func(entry string) bool { return liesWithin(item, entry) }) {
					t.Errorf("%q is let through, and allowed is %q", item, entries)
				}
			}
		}
	})
}

// liesWithin counts where the daemon compares: both ends of the item lie between those of the entry.
func liesWithin(item, entry string) bool {
	if item == entry {
		return true
	}
	first, last, ranged := strings.Cut(entry, "-")
	if !ranged {
		last = first
	}
	port, err := strconv.Atoi(item)
	low, err1 := strconv.Atoi(first)
	high, err2 := strconv.Atoi(last)
	if err == nil && err1 == nil && err2 == nil {
		return low <= port && port <= high
	}
	inner, err := netip.ParsePrefix(item)
	outer, err1 := netip.ParsePrefix(entry)
	return err == nil && err1 == nil && outer.Contains(inner.Masked().Addr()) && outer.Contains(highest(inner))
}

// highest returns the last address of a prefix.
func highest(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}
