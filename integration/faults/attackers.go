// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import "slices"

// attacks are what a tenant, or an unprivileged process of the node, does on purpose. The pods of a row are innocent
// ones that start meanwhile, unless it says otherwise.
func attacks() []Row {
	all := slices.Concat(costAttacks(), insideAttacks(), lockAttacks(), synchronizeAttacks(), identityAttacks(), ipv6Attacks(), looseningAttacks())
	for i := range all {
		all[i].Attacker = true
	}
	return all
}
