// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import "github.com/meshnetd/meshnetd/integration/lab"

// looseningAttacks are by the author of a pod of the mesh, after its injection: containers ask for less than the sandbox
// has.
func looseningAttacks() []Row {
	return []Row{{Fault: "arguments and environment of the proxy that take rules away", Everywhere: true, begin: pretend(looser), end: evicted}}
}

// looser send to the targets as an app does, once the rules that would catch it are gone.
func looser(flood []string) []lab.ContainerSpec {
	proxy := func(args []string, env ...string) lab.ContainerSpec {
		return lab.ContainerSpec{Name: "istio-proxy", Args: args, User: appID, Group: appID, Env: append(env, "ISTIO_DUAL_STACK=true")}
	}
	return []lab.ContainerSpec{
		proxy(flood, "DISABLE_ENVOY=true"),
		proxy(flood, "ISTIO_OUTBOUND_OWNER_GROUPS=4000"),
		proxy(flood, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=1000"),
		proxy([]string{"proxy", "router"}),
	}
}
