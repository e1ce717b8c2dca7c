// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// ipv6Attacks are by an app without any capability, in a pod whose proxy speaks only IPv4.
func ipv6Attacks() []Row {
	return []Row{{Fault: `connections by link-local addresses, where ipv6 = "block"`, Everywhere: true, begin: linkLocal, end: evicted}}
}

// linkLocal runs a pod of the mesh whose app calls its neighbour on the bridge by that one's link-local address, and looks
// whether anything of it came to the bridge.
func linkLocal(ctx context.Context, s *stage) error {
	good, err := os.ReadFile(s.configFile())
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	s.later(func() { s.failed(os.WriteFile(s.configFile(), good, 0o600)) })
	text := "ipv6 = \"block\"\n" + strings.ReplaceAll(string(good), "dual_stack = true", "dual_stack = false")
	if err := os.WriteFile(s.configFile(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := s.reload(ctx, "config_reloaded"); err != nil {
		return err
	}
	neighbour, err := linkLocalOf(s.peer)
	if err != nil {
		return err
	}
	name := s.unique("link-local")
	p, err := s.lab.RunPod(ctx, lab.PodSpec{Name: name, UID: name, Annotations: lab.Injected(nil)})
	if err != nil {
		return err
	}
	s.hostile = append(s.hostile, p.ID)
	mark := s.capture.Mark()
	c, err := p.RunContainer(ctx, lab.ContainerSpec{Name: "app", User: appID, Group: appID,
		Args: []string{"connect", "tcp6", netip.AddrPortFrom(neighbour.WithZone("eth0"), serverPort).String(), "--exit"}})
	if err != nil {
		return err
	}
	e, err := c.WaitFor(ctx, func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
	switch {
	case err != nil:
		return err
	case e.Event == "connected" || !strings.Contains(e.Error, "refused"):
		return fmt.Errorf("no reset for the app: %+v", e)
	}
	seen, err := s.capture.Since(ctx, mark, s.peer.IP())
	if err != nil {
		return err
	}
	for _, packet := range seen {
		if packet.Dst.Addr() == neighbour {
			return fmt.Errorf("seen on the bridge: %+v", packet)
		}
	}
	return nil
}

// linkLocalOf returns the link-local address of a pod.
func linkLocalOf(p *lab.Pod) (found netip.Addr, err error) {
	ns, err := netns.Open(p.NetNS(), nil)
	if err != nil {
		return found, err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
				found = prefix.Addr().WithZone("")
				return nil
			}
		}
		return errors.New("eth0 has no link-local address")
	})
	return found, err
}
