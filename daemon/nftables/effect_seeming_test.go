// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"net"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Rules in the place of a plan's that seem to stop or take all that it does: who gets the connection all the same.
func TestKernelOfRulesThatSeemToTakeMore(t *testing.T) {
	nstest.Require(t, "nft")
	taken, interfaces := redirected()
	var b rules.Builder
	b.Append("filter", "OUTPUT", "", rules.Drop, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80), rules.InState(rules.StateNew))
	stopped := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	const app, other, beside = server + ":80", "127.0.0.1:9000", "10.9.9.9:9001"
	interfaces[0].Addresses = append(interfaces[0].Addresses, netip.MustParseAddr("10.9.9.9"))
	for name, tt := range map[string]struct {
		plan   rules.Plan
		chains string
		gets   string // the connection
		want   effect.Answer
	}{
		"a drop behind a TPROXY to where nobody listens": {taken,
			"chain c { type filter hook prerouting priority -160; tcp dport 80 tproxy to :9 drop; }\n", app, effect.Less},
		"and to a port whose socket is not a transparent one": {taken,
			"chain c { type filter hook prerouting priority -160; tcp dport 80 tproxy to :9000 drop; }\n", app, effect.Less},
		"a drop in a chain of nat behind one that translates the source": {taken,
			"chain c { type nat hook postrouting priority 90; snat to " + client + "; }\nchain d { type nat hook postrouting priority 110; drop; }\n", app, effect.Less},
		"the same by masquerade": {taken,
			"chain c { type nat hook postrouting priority 90; masquerade; }\nchain d { type nat hook postrouting priority 110; drop; }\n", app, effect.Less},
		"what is to be dropped, given to whoever listens": {stopped,
			"chain c { type nat hook output priority -100; tcp dport 80 redirect to :9000; }\n", other, effect.Less},
		"a mark that a zone's template does not take": {taken,
			"chain c { type filter hook output priority -300; ct zone set 1 ct mark set 0x7; }\nchain d { type filter hook output priority 0; ct mark 0x7 drop; }\n", app, effect.Less},
		"a drop by a source that is another one by then": {taken,
			"chain c { type nat hook postrouting priority 100; ip saddr " + client + " snat to " + server + "; }\n" +
				"chain d { type filter hook postrouting priority 110; tcp dport 80 ip saddr " + client + " drop; }\n" +
				"chain e { type filter hook output priority 0; tcp dport 80 ip saddr != " + client + " drop; }\n", app, effect.CannotTell},
		"another address at the proxy's port": {taken,
			"chain c { type nat hook output priority -100; tcp dport 80 dnat to " + beside + "; }\n", beside, effect.Less},
		"a drop in a chain of nat where nothing looks up connections": {taken,
			"chain c { type nat hook output priority -100; tcp dport 80 drop; }\n", app, effect.CannotTell},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.own(t, client, server, "10.9.9.9")
			var listeners []int
			for _, at := range []string{app, "127.0.0.1:9001", other, beside} {
				listeners = append(listeners, s.listen(t, at, 0))
			}
			s.RunInput(t, "table ip t {\n"+tt.chains+"}\n", "nft", "-f", "-")
			got := ""
			err := s.sendAnd(port80, func(int) error { // nothing waits on the way through lo
				for _, l := range listeners {
					got += accepted(t, l)
				}
				return nil
			})
			if err != nil || got != tt.gets {
				t.Errorf("it is %q's, want %q (%v)", got, tt.gets, err)
			}
			if r := s.effect(t, tt.plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// Early demux finds the socket of an arriving packet before the input hook, and with it an owner.
func TestKernelOfOwnersAtInput(t *testing.T) {
	nstest.Require(t, "nft")
	var b rules.Builder
	b.Append("filter", "INPUT", "", rules.Drop, rules.Protocol(rules.UDP), rules.DestinationPort(rules.UDP, 80))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	s := newSandbox(t)
	peer, err := netns.Open(s.Peer(t, "10.0.0.0/24").Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)
	connected := func(ns *netns.Namespace, local, remote string) (c *net.UDPConn) {
		err := ns.Do(func() (err error) {
			c, err = net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	app, sender := connected(s.ns, "10.0.0.1:80", "10.0.0.2:50000"), connected(peer, "10.0.0.2:50000", "10.0.0.1:80")
	s.RunInput(t, "table ip t {\nchain c { type filter hook input priority 0; meta skuid 0 accept; udp dport 80 drop; }\n}\n", "nft", "-f", "-")
	if _, err := sender.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	interfaces := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}
	if r := s.effect(t, plan, interfaces); r.Answer != effect.CannotTell {
		t.Errorf("got %s: %v", r.Answer, r.Differences)
	}
}
