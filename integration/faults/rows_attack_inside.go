// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// insideAttacks are what somebody does in a pod of his own, by NET_ADMIN or by the names of its containers.
func insideAttacks() []Row {
	return []Row{
		{Fault: "a pod with NET_ADMIN has the kernel hold rules, elements and routes without end, while 4 pods start", Pods: 4, Everywhere: true,
			begin: pour, end: poured},
		{Fault: "a pod with NET_ADMIN writes the rules of one that may exclude everything, and meshnetd restarts", Everywhere: true,
			begin: forge, end: evicted},
		// Where the runtime has a validator it refuses each of the pod's containers while the required plugin is away, istio-init as
		// well. By its name meshnetd refuses none: it says nothing that the sandbox does not know, and takes no rules away.
		{Fault: "a pod with a container istio-init that does nothing starts while meshnetd is away", Absent: true, Init: "istio-init", end: late},
	}
}

// floods of everything that meshnetd reads in a namespace.
var floods = []struct {
	program []string
	input   func() string
}{
	{[]string{"iptables-nft-restore", "--noflush"}, func() string {
		return "*mangle\n" + strings.Repeat("-A OUTPUT -s 10.0.0.1 -j ACCEPT\n", 60_000) + "COMMIT\n"
	}},
	{[]string{"nft", "-f", "-"}, func() string {
		var elements strings.Builder
		for i := range 300_000 {
			fmt.Fprintf(&elements, "%d,", i)
		}
		return "table inet meshnetd { set users-1 { type uid; flags constant; size 300000; elements = { " + elements.String() + "}; }; }"
	}},
	{[]string{"ip", "-batch", "-"}, func() string {
		var lines strings.Builder
		for i := range 20_000 {
			fmt.Fprintf(&lines, "route add blackhole 10.%d.%d.%d table 133\n", i>>16, i>>8&255, i&255)
		}
		return lines.String()
	}},
}

// pour starts a pod of the mesh for each flood, whose namespace is filled as a container with NET_ADMIN can fill it.
func pour(ctx context.Context, s *stage) error {
	errs := make([]error, len(floods))
	var filling sync.WaitGroup
	for i, flood := range floods {
		name := s.unique("flood")
		p, err := s.lab.RunPod(ctx, lab.PodSpec{Name: name, UID: name, Annotations: lab.Injected(nil)})
		if err != nil {
			return err
		}
		s.flooded = append(s.flooded, p)
		filling.Go(func() {
			cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + p.NetNS()}, flood.program...)...)
			cmd.Stdin = strings.NewReader(flood.input())
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%s in %s: %w: %.300s", flood.program, name, err, out)
			}
		})
	}
	filling.Wait()
	return errors.Join(errs...)
}

// poured expects that these pods get no container any more, with the reason, and that the daemon stayed small.
func poured(ctx context.Context, s *stage) error {
	for _, p := range s.flooded {
		var last error
		err := lab.Poll(ctx, func() (bool, error) { // where nobody is asked about each container, once the auditor came by
			c, err := p.CreateContainer(ctx, lab.ContainerSpec{Name: s.unique("app"), Args: []string{"flood"}, User: appID, Group: appID})
			if last = err; err == nil {
				return false, c.Remove(ctx)
			}
			return strings.Contains(err.Error(), "than meshnetd reads"), nil
		})
		if err != nil {
			return fmt.Errorf("a container of %s is not refused for what is in its namespace: %w", p.Spec.Name, errors.Join(err, last))
		}
	}
	return stayedSmall(ctx, s)
}

// everything is a pod that may exclude everything.
const everything = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "default", "annotations": {
	"sidecar.istio.io/status": "{\"containers\": [\"istio-proxy\"]}",
	"traffic.sidecar.istio.io/excludeOutboundIPRanges": "0.0.0.0/0,::/0"}}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}`

// forge writes into a running pod what such a pod has, while meshnetd is away, and has the pod's app send once it is back. How an
// earlier meshnetd named such rules on lo says nothing either.
func forge(ctx context.Context, s *stage) error {
	name := s.unique("forged")
	p, err := s.lab.RunPod(ctx, lab.PodSpec{Name: name, UID: name, Annotations: lab.Injected(nil)})
	if err != nil {
		return err
	}
	s.hostile = append(s.hostile, p.ID)
	if _, err := p.RunContainer(ctx, lab.ContainerSpec{Name: "first", Args: []string{"pause"}, User: appID, Group: appID}); err != nil {
		return err
	}
	s.daemon.Kill()
	s.forget(s.daemon)
	apply := exec.CommandContext(ctx, s.programs.launcher, "apply", "--netns", p.NetNS(), "--config", filepath.Join(s.lab.Dir(), "meshnetd.toml"), "-f", "-")
	apply.Stdin = strings.NewReader(everything)
	alias := exec.CommandContext(ctx, "nsenter", "--net="+p.NetNS(), "ip", "link", "set", "lo", "alias", "meshnetd:forged")
	for _, cmd := range []*exec.Cmd{apply, alias} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s in %s: %w: %s", cmd.Args, name, err, out)
		}
	}
	if s.daemon, err = s.runDaemon(ctx); err != nil {
		return err
	}
	_, err = p.RunContainer(ctx, lab.ContainerSpec{Name: "app", Args: s.flood(), User: appID, Group: appID})
	return err
}

// late starts the daemon when the pods have been tried.
func late(ctx context.Context, s *stage) (err error) {
	s.daemon, err = s.runDaemon(ctx)
	return err
}
