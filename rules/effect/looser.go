// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// Looser implements rules.Looser: it says what a plan lets go that an earlier one takes or stops. What cannot be told is
// something.
func Looser(before, after rules.Plan) string {
	p := NewPod([]rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}})
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		r := Compare(p, OfPlan(p, before, family), OfPlan(p, after, family))
		switch {
		case r.Answer <= More:
		case len(r.Differences) > 0:
			d := r.Differences[0]
			return d.Witness.String() + ": the sandbox's plan " + d.Plan + ", with the container's it " + d.Have
		default:
			return "what becomes of its packets cannot be told"
		}
	}
	return ""
}
