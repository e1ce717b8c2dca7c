// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestMain(m *testing.M) {
	labtest.Main(m, "TestTrafficEndToEnd", "TestFirstConnectionIsCaught")
}
