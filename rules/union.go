// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"reflect"
	"slices"
)

// Union returns the footprint of several meshes. What two of them share is in it once.
func Union(footprints ...Footprint) Footprint {
	var u Footprint
	for _, f := range footprints {
		if slices.ContainsFunc(u.Parts, func(known Footprint) bool { return reflect.DeepEqual(known, f) }) {
			continue
		}
		u.Parts = append(u.Parts, f)
		u.Chains, u.Marks, u.Comments = join(u.Chains, f.Chains), join(u.Marks, f.Marks), join(u.Comments, f.Comments)
		u.Routes, u.Loopback = join(u.Routes, f.Routes), join(u.Loopback, f.Loopback)
		if u.Reroute == "" { // only one mesh has it
			u.Reroute = f.Reroute
		}
	}
	if len(u.Parts) == 1 {
		return u.Parts[0]
	}
	return u
}

func join[T comparable](known, more []T) []T {
	for _, item := range more {
		if !slices.Contains(known, item) {
			known = append(known, item)
		}
	}
	return known
}

// in narrows a union to the meshes that have a chain or a comment in the table. Other meshes' marks prove nothing there.
func (f Footprint) in(t Table) Footprint {
	return f.narrowed(func(part Footprint) bool { return part.present(t) })
}

func (f Footprint) narrowed(stays func(Footprint) bool) Footprint {
	if f.Parts == nil {
		return f
	}
	return Union(slices.DeleteFunc(slices.Clone(f.Parts), func(part Footprint) bool { return !stays(part) })...)
}

// present reports whether a table holds one of our chains or comments.
func (f Footprint) present(t Table) bool {
	return slices.ContainsFunc(t.Chains, func(c Chain) bool { return f.chain(c) || slices.ContainsFunc(c.Rules, f.comments) })
}

// Narrow narrows a union to the meshes whose rules the plan holds.
func (f Footprint) Narrow(plan Plan) Footprint {
	return f.narrowed(func(part Footprint) bool { return part.wrote(plan) })
}

// wrote reports whether a plan holds a mesh's rules. The chains of IPv6 that is to be refused are every mesh's, and so are those of lockdowns.
func (f Footprint) wrote(plan Plan) bool {
	f.Chains = slices.DeleteFunc(slices.Clone(f.Chains), isBlock)
	return slices.ContainsFunc(plan.Rulesets(), func(rs Ruleset) bool { return slices.ContainsFunc(rs.Tables, f.present) })
}

func isBlock(chain string) bool {
	return chain == ChainBlockIn || chain == ChainBlockOut || chain == ChainBlockDNS
}
