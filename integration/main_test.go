// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestMain(m *testing.M) {
	nstest.MainInParts(m, "TestFaults24", "TestFaults17", "TestAttacks24", "TestAttacks17", "TestSoak", "TestTrafficEndToEnd", "TestConformance", "TestFirstConnectionIsCaught")
}
