// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// labelPrefix tells our alias of lo from those of others.
const labelPrefix = "meshnetd:"

// SetLabel writes on lo which plan the namespace was verified to hold, as the interface's alias, which
// lives as long as the namespace and is seen with `ip link`; "" takes it off. The text may have 200 bytes.
// The alias of somebody else stays, and is no error: the namespace goes without a label then. Nothing is
// written where the label is there already.
func (h *Handle) SetLabel(text string) error {
	alias, err := h.alias()
	if err != nil {
		return err
	}
	want := ""
	if text != "" {
		want = labelPrefix + text
	}
	if alias == want || alias != "" && !strings.HasPrefix(alias, labelPrefix) {
		return nil
	}
	if err := h.nl.LinkSetAlias(lo, want); err != nil {
		return fmt.Errorf("ip link set lo alias %q: %w", want, err)
	}
	return nil
}

// Label reads what SetLabel wrote; "" where there is nothing, or the alias of somebody else.
func (h *Handle) Label() (string, error) {
	alias, err := h.alias()
	text, ours := strings.CutPrefix(alias, labelPrefix)
	if !ours {
		return "", err
	}
	return text, err
}

func (h *Handle) alias() (string, error) {
	link, err := h.nl.LinkByIndex(lo.Index)
	if err != nil {
		return "", fmt.Errorf("interface lo: %w", err)
	}
	return link.Attrs().Alias, nil
}

// Own reads which routes and addresses of the footprint the namespace holds. A route that is there in part or more than
// once is listed twice, so that the result equals no plan.
func (h *Handle) Own(footprint rules.Footprint) (rules.Plan, error) {
	own := rules.Plan{Footprint: footprint}
	for _, r := range footprint.Routes {
		n, routed, err := h.presence(r)
		if err != nil {
			return rules.Plan{}, err
		}
		switch {
		case n == 0 && !routed:
		case n == 1 && routed:
			own.Routes = append(own.Routes, r)
		default:
			own.Routes = append(own.Routes, r, r)
		}
	}
	for _, prefix := range footprint.Loopback {
		have, err := h.hasAddress(prefix)
		if err != nil {
			return rules.Plan{}, err
		}
		if have {
			own.Loopback = append(own.Loopback, prefix)
		}
	}
	return own, nil
}
