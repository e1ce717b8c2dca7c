// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"slices"
)

// Installed returns the variants that the node has with all their programs, such as "iptables-nft 1.8.9". Whether
// they work is not looked at. Asking each for its version ends with ctx.
func Installed(ctx context.Context) []string {
	var found []string
	for _, c := range candidates {
		v, err := locate(ctx, c.name, c.program)
		if err != nil {
			continue
		}
		if name := v.name + " " + v.version; !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found
}
