// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
