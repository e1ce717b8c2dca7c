// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package packets has the daemon write each kind of plan into a network namespace, and holds what is then in the kernel to
// what other tools leave there, and to what packets meet. No test of it needs a runtime; those that do are in integration.
package packets

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestMain(m *testing.M) {
	labtest.Main(m, "TestConformanceAfterAnyOther", "TestIPv6ByAnAttacker", "TestConformance")
}
