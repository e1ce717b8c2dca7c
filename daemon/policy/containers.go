// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Identities returns as whom containers run, with what shows whether they are the proxy.
func Identities(containers ...rules.Container) []rules.Container {
	var all []rules.Container
	for _, c := range containers {
		if c.UID != nil || c.GID != nil {
			all = append(all, c.Identity())
		}
	}
	return all
}

// Saying returns the containers that are named, reduced to what they can say about their pod, in little memory.
func (p *Policy) Saying(containers []rules.Container, named func(string) bool) []rules.Container {
	var all []rules.Container
	for _, c := range containers {
		if named(c.Name) {
			c = p.Node.Bounded(c)
			all = append(all, rules.Container{Name: c.Name, Args: c.Args, ArgsOnly: c.ArgsOnly, Env: c.Env, UID: c.UID, GID: c.GID, ByKubelet: c.ByKubelet, Said: c.Said})
		}
	}
	return all
}

// Naming returns all of the containers, reduced in the same way.
func (p *Policy) Naming(containers []rules.Container) []rules.Container {
	return p.Saying(containers, func(string) bool { return true })
}

// Overlay adds containers to those known already; a later one of the same name replaces an earlier one.
func Overlay(known, news []rules.Container) []rules.Container {
	all := slices.Clone(known)
	for _, c := range news {
		if i := slices.IndexFunc(all, func(k rules.Container) bool { return k.Name == c.Name }); i >= 0 {
			all[i] = c
		} else {
			all = append(all, c)
		}
	}
	return all
}
