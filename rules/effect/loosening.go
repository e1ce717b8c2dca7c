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
	switch r := ComparePlans(before, after); {
	case r.Answer <= More:
		return ""
	case len(r.Differences) > 0:
		d := r.Differences[0]
		return d.Witness.String() + ": the sandbox's plan " + d.Plan + ", with the container's it " + d.Have
	}
	return "what becomes of its packets cannot be told"
}

// ComparePlans compares what becomes of the packets of some pod by two plans, the other one in the place of a kernel. It stops at
// a family where the other takes less.
func ComparePlans(plan, other rules.Plan) (r Result) {
	p := NewPod([]rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}})
	routed := slices.Equal(plan.Routes, other.Routes) && slices.Equal(plan.Loopback, other.Loopback)
	for i, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		if routed && plan.Rulesets()[i].String() == other.Rulesets()[i].String() {
			continue
		}
		one := Compare(p, OfPlan(p, plan, family), OfPlan(p, other, family))
		if one.Answer > r.Answer || len(r.Differences) == 0 {
			r = one
		}
		if r.Answer > More {
			break
		}
	}
	return r
}
