// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Impostor returns why a container goes around the mesh as the proxy's user or group although it is not the
// proxy, or "". A user that is not known proves nothing.
func (d Decision) Impostor(c Container) string {
	if d.Action != Enrol || slices.Contains(d.Proxy.Containers, c.Name) {
		return ""
	}
	var ids, fields []string
	if c.UID != nil && *c.UID == int64(d.Proxy.UID) {
		ids, fields = append(ids, fmt.Sprintf("user %d", *c.UID)), append(fields, "runAsUser")
	}
	if c.GID != nil && *c.GID == int64(d.Proxy.GID) {
		ids, fields = append(ids, fmt.Sprintf("group %d", *c.GID)), append(fields, "runAsGroup")
	}
	if len(ids) == 0 {
		return ""
	}
	return fmt.Sprintf("container %s runs as %s, as the proxy does: what it sends would go around the mesh. Give it another %s, "+
		"or ask who runs the node to allow it (proxy_identity in the configuration)", c.Name, strings.Join(ids, " and "), strings.Join(fields, " and "))
}

// Of returns the proxy with the ids that the rules of a plan name first, where they name any: groups that
// are merely left out of capture come after it. Users who are left out may come before it, so that its own
// stays where the plan names it anywhere.
func (p Proxy) Of(plan Plan) Proxy {
	uid := slices.ContainsFunc(plan.all(), func(r Rule) bool { return slices.Contains(r.owners(), p.UID) })
	gid := false
	for _, r := range plan.all() {
		for _, m := range r.Match {
			switch m := m.(type) {
			case OwnerUID:
				if !uid {
					p.UID, uid = m.ID, true
				}
			case OwnerGID:
				if !gid {
					p.GID, gid = m.ID, true
				}
			}
		}
	}
	return p
}

// owners returns the users that a rule asks for or against.
func (r Rule) owners() (ids []uint32) {
	for _, m := range r.Match {
		if m, ok := m.(OwnerUID); ok {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// all returns the rules of all chains, IPv4 first.
func (p Plan) all() []Rule {
	var all []Rule
	for _, rs := range p.Rulesets() {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				all = append(all, c.Rules...)
			}
		}
	}
	return all
}
