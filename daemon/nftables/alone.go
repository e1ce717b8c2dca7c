// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// holdsAlone reports whether a namespace holds a plan, written in this dialect, and nothing else that could decide about a
// packet: then the rules need not be judged by what they do.
func (t Tables) holdsAlone(s state, plan rules.Plan) (bool, error) {
	want, err := t.wanted(plan)
	if err != nil {
		return false, err
	}
	if len(s.rules) != want.rules() || s.passes() || slices.ContainsFunc(s.chains, object.drops) {
		return false, nil
	}
	differences, err := want.differences(s)
	return err == nil && len(differences) == 0, err
}

// rules counts the rules of all chains.
func (w wanted) rules() int {
	n := rules.Plan{V4: w.sets[0], V6: w.sets[1]}.Rules()
	for _, c := range w.native.chains {
		n += len(c.rules)
	}
	return n
}
