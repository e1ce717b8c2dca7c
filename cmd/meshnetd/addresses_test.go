// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

// Pods are told the node's addresses where a lockdown asks for them, and none that only the node itself can reach.
func TestAddresses(t *testing.T) {
	if got := addresses(config.Config{Lockdowns: []rules.Lockdown{{Egress: true}}}); got != nil {
		t.Errorf("nobody asks, and there are %v", got)
	}
	got := addresses(config.Config{Lockdowns: []rules.Lockdown{{}, {Inbound: true}}})
	if slices.ContainsFunc(got, netip.Addr.IsLoopback) || slices.ContainsFunc(got, netip.Addr.IsLinkLocalUnicast) || len(got) > mostAddresses || !slices.IsSortedFunc(got, netip.Addr.Compare) {
		t.Errorf("%v", got)
	}
}
