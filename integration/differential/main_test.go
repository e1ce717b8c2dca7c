// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"runtime/debug"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a fifth of the time would go there
	nstest.Main(m)
}
