// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/labtest"
)

// Users and groups of the pods' programs.
const app, proxy, root = labtest.App, labtest.Proxy, 0

func TestMain(m *testing.M) {
	labtest.Main(m, "TestTrafficEndToEnd", "TestFirstConnectionIsCaught")
}
