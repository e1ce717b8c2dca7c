// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// A daemon starts on a node of 250 pods, whose rules are those of another configuration.
func BenchmarkTakeover(b *testing.B) {
	const count = 250
	earlier, _ := newEnforcer(b, nftables.New(nftables.IPTables))
	pods := make([]rules.Pod, count)
	for i := range pods {
		ip := fmt.Sprintf("10.0.%d.%d", 1+i/200, 1+i%200)
		pods[i] = meshed(nstest.New(b, ip+"/16").Path)
		pods[i].SandboxID, pods[i].IPs = fmt.Sprint("pod", i), []netip.Addr{netip.MustParseAddr(ip)}
		pods[i].Containers = []rules.Container{{Name: "app", Running: true}}
		if o := earlier.Enforce(context.Background(), lifecycle.SandboxStarted, pods[i]); o.Result != lifecycle.Protected {
			b.Fatal(o.Err)
		}
	}
	for _, tt := range []struct {
		name    string
		written nftables.Dialect
		change  func(*istio.Defaults)
		want    lifecycle.State
	}{
		{"protected", nftables.IPTables, func(*istio.Defaults) {}, lifecycle.StateProtected},
		{"outdated", nftables.IPTables, otherPort, lifecycle.StateOutdated},
		{"in_another_shape", nftables.Native, func(*istio.Defaults) {}, lifecycle.StateOutdated},
	} {
		b.Run(tt.name, func(b *testing.B) {
			node := earlier.visitor.Kernel.(kernel.Node)
			node.Firewall = nftables.New(tt.written)
			earlier.visitor.Kernel = node
			for _, pod := range pods {
				if _, err := earlier.Remove(context.Background(), pod.NetNS); err != nil {
					b.Fatal(err)
				}
				if o := earlier.Enforce(context.Background(), lifecycle.ByHand, pod); o.Err != nil {
					b.Fatal(o.Err)
				}
			}
			for b.Loop() {
				d := istio.Standard()
				tt.change(&d)
				e, _ := newEnforcer(b, nftables.New(nftables.IPTables))
				e.sandboxes.Receipts = earlier.sandboxes.Receipts
				e.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{istio.New(d)}, RuntimeHandlers: []string{""}}))
				e.Synchronize(context.Background(), pods)
				for _, sb := range e.View().Sandboxes() {
					if sb.State != tt.want {
						b.Fatalf("%s: %s", sb.State, sb.Detail)
					}
				}
			}
		})
	}
}
