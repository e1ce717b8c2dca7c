// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// Words for PodsAPI.
const (
	PodsAPIAuto = "auto" // the kubelet's usual socket, where there is one
	PodsAPIOff  = "off"
)

// Bypass says what happens to a pod of the mesh with containers that are given a way around its rules.
type Bypass string

// The ways to treat it.
const (
	BypassReport Bypass = "report"
	BypassRefuse Bypass = "refuse"
)

func podsAPI(s string) error {
	if s != PodsAPIAuto && s != PodsAPIOff && !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q is neither %q, %q nor an absolute path", s, PodsAPIAuto, PodsAPIOff)
	}
	return nil
}
