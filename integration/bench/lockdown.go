// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// nodeAddresses are where a kubelet would probe from.
var nodeAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}

// lockedDown returns the kinds of pods that are compared: without a lockdown, with one of everything that only counts, and with
// one that is enforced.
func lockedDown() []kind {
	all := rules.Lockdown{UDP: rules.UDPLookups, DNSServers: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ICMP: true, Others: true,
		Egress: true, Inbound: true, LocalPorts: []rules.PortRange{{First: 15000, Last: 15000}, {First: 15004, Last: 15004}}}
	enforced := all
	enforced.Enforce = true
	return []kind{
		{name: "off", defaults: dualStack()},
		{name: "report", defaults: dualStack(), lockdowns: []rules.Lockdown{all}},
		{name: "enforce", defaults: dualStack(), lockdowns: []rules.Lockdown{enforced}},
	}
}

// lockdown measures what a lockdown adds to a pod's start, and to connections of an app to its proxy.
func (b *bench) lockdown() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	for _, w := range n.backends {
		if w.exec || w.err != nil {
			continue
		}
		var starts, connections []*speed.Peer
		var scenes []*scene
		for _, k := range lockedDown() {
			starts = append(starts, b.start(k.name, nil, k, b.always(w, k)))
			s := &scene{name: k.name, target: [4]byte{203, 0, 113, 1}, port: 80}
			if err := b.prepare(s, func(path string) error {
				pod := rules.Pod{SandboxID: k.name, Namespace: "default", Name: k.name, NetNS: path, Annotations: lab.Injected(nil)}
				return protect(b.ctx, b.node.enforcer(w, k), pod)
			}); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			scenes = append(scenes, s)
			connections = append(connections, s.connecting())
		}
		if err := speed.Interleave(b.ctx, b.rounds(200), starts...); err != nil {
			return err
		}
		b.beside("hook, by lockdown, "+w.label, "goal: 1.5 for enforce", starts)
		b.calm()
		err := speed.Interleave(b.ctx, b.rounds(80), connections...)
		for _, s := range scenes {
			s.close()
		}
		if err != nil {
			return err
		}
		b.beside("TCP connection of an app to the proxy, by lockdown, "+w.label, "goal: 1.1 for enforce", connections)
		n.end()
		b.calm()
	}
	return nil
}

// beside prints a table of peers, and the ratios of each to the first.
func (b *bench) beside(title, goal string, peers []*speed.Peer) {
	speed.Table(b.out, title, speed.Rows(peers...)...)
	for _, p := range peers[1:] {
		b.notef("%s to %s, of the same rounds: %s", p.Name, peers[0].Name, spread(speed.Ratios(p.Samples, peers[0].Samples)))
	}
	b.notef("%s", goal)
}
