// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// A node without a lockdown sends the kernel the same bytes for a pod as ever, and so does one whose lockdowns are for other
// namespaces.
func TestNoLockdownNoBytes(t *testing.T) {
	defaults := istio.Standard()
	defaults.DualStack = true
	node := rules.Node{Meshes: []rules.Mesh{istio.New(defaults)}, RuntimeHandlers: []string{""}}
	pod := rules.Pod{SandboxID: "a", Namespace: "shop", Name: "web", NetNS: "any", Annotations: lab.Injected(nil)}
	sent := func(dialect Dialect, lockdowns ...rules.Lockdown) []byte {
		node.Lockdowns = lockdowns
		plan, err := node.Decide(pod).Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}})
		if err != nil {
			t.Fatal(err)
		}
		want, err := New(dialect).wanted(plan)
		if err != nil {
			t.Fatal(err)
		}
		b, err := want.changes(state{})
		if err != nil {
			t.Fatal(err)
		}
		return b.sealed(1)
	}
	var text strings.Builder
	for _, dialect := range []Dialect{IPTables, Native} {
		off, elsewhere := sent(dialect), sent(dialect, rules.Lockdown{Namespaces: []string{"payments"}, Enforce: true, UDP: rules.UDPNone, Egress: true, Inbound: true})
		here := sent(dialect, rules.Lockdown{Namespaces: []string{"shop"}, Enforce: true, UDP: rules.UDPNone})
		if string(off) != string(elsewhere) || string(off) == string(here) {
			t.Errorf("%s: %d bytes without a lockdown, %d with one for another namespace, %d with one for this", dialect, len(off), len(elsewhere), len(here))
		}
		fmt.Fprintf(&text, "%s: %d bytes, SHA-256 %x\n", dialect, len(off), sha256.Sum256(off))
	}
	golden.Check(t, "off.golden", text.String())
}
