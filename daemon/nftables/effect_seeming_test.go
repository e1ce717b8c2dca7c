// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"net/netip"
	"testing"

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
		"another address at the proxy's port": {taken,
			"chain c { type nat hook output priority -100; tcp dport 80 dnat to " + beside + "; }\n", beside, effect.Less},
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
