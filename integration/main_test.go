// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(lab.Run) == "" {
		if err := os.Setenv(lab.Run, fmt.Sprint(os.Getpid(), time.Now().UnixNano())); err != nil {
			panic(err)
		}
	}
	nstest.MainInParts(m, "TestFaults", "TestFaultsBeside", "TestAttacks", "TestAttacksBeside", "TestSoak", "TestTrafficEndToEnd", "TestConformance", "TestFirstConnectionIsCaught")
}
