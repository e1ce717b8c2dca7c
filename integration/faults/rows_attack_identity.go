// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// identityAttacks are by a tenant who writes a pod of the mesh, and wants one of its containers to be taken for the
// proxy. The runtimes without validators do not tell as whom a container runs.
func identityAttacks() []Row {
	return []Row{
		{Fault: "containers with the proxy's user and a name of some injector's", Validators: true, Everywhere: true, begin: pretend(impostors), end: evicted},
		{Fault: "fsGroup 1337 and a setgid file", Validators: true, Everywhere: true, begin: pretend(member), end: evicted},
	}
}

// impostors send to the targets as the proxy would: by a name that this pod's injector used, with another program, and
// by names that other injectors use.
func impostors(flood []string) (all []lab.ContainerSpec) {
	for _, name := range []string{"istio-proxy", "istio-validation", "envoy-sidecar", "consul-dataplane", "kuma-sidecar", "kuma-validation",
		"linkerd-proxy", "linkerd-network-validator"} {
		all = append(all, lab.ContainerSpec{Name: name, Command: []string{"/standin"}, Args: flood, User: proxyID, Group: proxyID})
	}
	return all
}

// member becomes the proxy's group by a file of its own.
func member(flood []string) []lab.ContainerSpec {
	return []lab.ContainerSpec{{Name: "setgid", Args: append([]string{"setgid", fmt.Sprint(proxyID)}, flood...), User: appID, Group: appID, Groups: []int64{proxyID}}}
}

// pretend starts containers in a pod of the mesh, which must all be refused. One that is not goes on sending.
func pretend(containers func(flood []string) []lab.ContainerSpec) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		name := s.unique("pretend")
		p, err := s.lab.RunPod(ctx, lab.PodSpec{Name: name, UID: name, Annotations: lab.Injected(nil)})
		if err != nil {
			return err
		}
		s.hostile = append(s.hostile, p.ID)
		for _, spec := range containers(s.flood()) {
			if _, err := p.RunContainer(ctx, spec); err == nil {
				return fmt.Errorf("container %s was let through", spec.Name)
			} else if !strings.Contains(err.Error(), "meshnetd refuses container "+spec.Name) {
				return fmt.Errorf("container %s: not refused by meshnetd: %w", spec.Name, err)
			}
		}
		return nil
	}
}
