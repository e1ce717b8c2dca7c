// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
