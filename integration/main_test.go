// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package integration runs a real daemon on a real runtime, refuses, repairs, breaks, and asks what its commands say. What becomes of
// packets is in e2e, what needs no runtime in packets.
package integration

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/labtest"
)

// Users and groups of the pods' programs.
const app, proxy = labtest.App, labtest.Proxy

func TestMain(m *testing.M) {
	labtest.Main(m)
}
