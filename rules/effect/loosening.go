// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/meshnetd/meshnetd/rules"
)

// mostAnswers bounds the cache of one Loosening: a node has few kinds of pods.
const mostAnswers = 256

// NewLoosening returns a rules.Loosening: it says what a plan lets go that an earlier one takes or stops. Where that cannot
// be told, it says so, which counts as looser. Answers are cached, so that pods of one kind cost it once.
func NewLoosening() rules.Loosening {
	var mu sync.Mutex
	answers := map[[2]string]string{}
	return func(before, after rules.Plan) string {
		pair := [2]string{before.Key(), after.Key()}
		mu.Lock()
		answer, known := answers[pair]
		mu.Unlock()
		if known {
			return answer
		}
		answer = looser(before, after)
		mu.Lock()
		defer mu.Unlock()
		if len(answers) == mostAnswers {
			clear(answers)
		}
		answers[pair] = answer
		return answer
	}
}

func looser(before, after rules.Plan) string {
	p := NewPod([]rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}})
	routed := slices.Equal(before.Routes, after.Routes) && slices.Equal(before.Loopback, after.Loopback)
	for i, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		if routed && before.Rulesets()[i].String() == after.Rulesets()[i].String() {
			continue
		}
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
