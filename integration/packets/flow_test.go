// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// variants are what writes iptables' rules.
var variants = []string{backend.IPTables, xtables.NFT, xtables.Legacy}

// onVariants runs a test with each of them; a short run has one.
func onVariants(t *testing.T, test func(t *testing.T, variant string)) {
	for _, name := range sample.Of(t, 1, variants) {
		t.Run(name, func(t *testing.T) { test(t, name) })
	}
}

// onBackends also runs it with what iptables does not show.
func onBackends(t *testing.T, test func(t *testing.T, backend string)) {
	for _, name := range sample.Of(t, 1, append(slices.Clone(variants), backend.NFTables)) {
		t.Run(name, func(t *testing.T) { test(t, name) })
	}
}

// tools returns what stands in the names of the programs that show what the variant wrote.
func tools(variant string) string {
	if variant == xtables.Legacy {
		return "-legacy"
	}
	return "-nft"
}

// newEnforcer returns the daemon's flow with a real firewall.
func newEnforcer(t testing.TB, variant string, defaults istio.Defaults) *daemon.Enforcer {
	t.Helper()
	nstest.Require(t, "iptables-nft", "iptables-legacy")
	host, err := netns.Host("")
	if err != nil {
		t.Fatal(err)
	}
	locks, err := netns.MakeLocks(filepath.Join(t.TempDir(), "locks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(locks.Close)
	node := rules.Node{Meshes: []rules.Mesh{istio.New(defaults)}, RuntimeHandlers: []string{""}}
	return daemon.New(policy.Policy{Node: node}, kernel.Node{Host: host, Locks: locks, Firewall: labtest.Firewall(t, variant)}, receipts.In(locks.Directory()), func(outcome.Outcome) {})
}

// protect takes a pod through the flow and expects it to be protected.
func protect(t testing.TB, e *daemon.Enforcer, pod rules.Pod) outcome.Outcome {
	t.Helper()
	trigger := lifecycle.ByHand
	if pod.SandboxID != "" { // a command that names one asks about what is known
		trigger = lifecycle.SandboxStarted
	}
	o := e.Enforce(labtest.Within(t, time.Minute), trigger, pod)
	if o.Result != lifecycle.Protected {
		t.Fatalf("%s: %s: %v", pod, o.Result, o.Err)
	}
	return o
}

// meshed returns a pod as Istio's injector leaves it, with more annotations in pairs.
func meshed(path string, annotations ...string) rules.Pod {
	pod := rules.Pod{Namespace: "default", Name: "web", NetNS: path, Annotations: map[string]string{
		"sidecar.istio.io/status": `{"initContainers":["istio-validation"],"containers":["istio-proxy"]}`}}
	for i := 0; i+1 < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return pod
}
