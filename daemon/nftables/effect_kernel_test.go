// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// redirected is a plan that gives the proxy at port 9001 what is sent to port 80, and the interfaces it is for.
func redirected() (rules.Plan, []rules.Interface) {
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 9001}, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80))
	interfaces := []rules.Interface{{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr(client), netip.MustParseAddr(server)}}}
	return rules.Plan{V4: b.Ruleset(rules.IPv4)}, interfaces
}

// What package effect says of the kernel: who gets a connection where chains of several tables are asked about it.
func TestKernelOfSeveralTables(t *testing.T) {
	nstest.Require(t, "nft")
	plan, interfaces := redirected()
	const (
		app, proxy, other = server + ":80", "127.0.0.1:9001", "127.0.0.1:9000"
		ours              = "chain ours { type nat hook output priority -100; tcp dport 80 redirect to :9001; }\n"
		later             = "# in another transaction\n"
		theirs            = "chain theirs { type nat hook output priority -100; tcp dport 80 redirect to :9000; }\n"
	)
	for name, tt := range map[string]struct {
		chains string
		gets   string // the connection
		want   effect.Answer
	}{
		"the plan's alone": {ours, proxy, effect.Equal},
		"nat runs at its place, whatever its priority is": {"chain marks { type route hook output priority -150; tcp dport 80 meta mark set 0x1; }\n" +
			"chain early { type nat hook output priority -190; meta mark 0x1 tcp dport 80 redirect to :9001; }\n", proxy, effect.Equal},
		"an accept in another chain of nat does not stop ours":    {"chain first { type nat hook output priority -110; accept; }\n" + ours, proxy, effect.Equal},
		"an accept in ours does":                                  {strings.Replace(ours, "tcp", "tcp dport 80 accept; tcp", 1), app, effect.Less},
		"what another chain of nat translates is not asked again": {"chain first { type nat hook output priority -110; tcp dport 80 redirect to :9000; }\n" + ours, other, effect.Less},
		"of one priority the chain that was made last is first":   {ours + theirs, other, effect.CannotTell},
		"of one priority the chain that was made first is last":   {theirs + ours, proxy, effect.CannotTell},
		"notrack before connections are looked up ends nat":       {"chain raw { type filter hook output priority -300; notrack; }\n" + ours, app, effect.Less},
		"notrack at the place of that, made last":                 {ours + later + "chain raw { type filter hook output priority -200; notrack; }\n", app, effect.CannotTell},
		"notrack at the place of that, made first":                {"chain raw { type filter hook output priority -200; notrack; }\n" + later + ours, proxy, effect.CannotTell},
		"a drop at the place of nat, made last, does not see what that translates to": {theirs + later +
			"chain drops { type filter hook output priority -100; tcp dport 9000 drop; }\n", other, effect.CannotTell},
		"notrack behind that does nothing":                          {"chain late { type filter hook output priority -150; notrack; }\n" + ours, proxy, effect.Equal},
		"an accept in a chain of filter does not stop those of nat": {"chain filter { type filter hook output priority -150; accept; }\n" + ours, proxy, effect.Equal},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.own(t, client, server)
			listeners := []int{s.listen(t, app, 0), s.listen(t, proxy, 0), s.listen(t, other, 0)}
			for chains := range strings.SplitSeq(tt.chains, later) {
				s.RunInput(t, "table ip t {\n"+chains+"}\n", "nft", "-f", "-")
			}
			got := ""
			err := s.sendAnd(port80, func(int) error { // nothing waits on the way through lo
				for _, l := range listeners {
					got += accepted(t, l)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.gets {
				t.Errorf("it is %q's, want %q", got, tt.gets)
			}
			if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// A nat without an address is of both families, and one of the other family is passed over: what stands behind it is done.
func TestKernelOfNatOfOtherFamilies(t *testing.T) {
	nstest.Require(t, "nft")
	plan, interfaces := redirected()
	to := func(w *wire, family uint32, address string) {
		const addressAt, portAt = unix.NFT_REG32_00, unix.NFT_REG32_08
		if address != "" {
			store(w, addressAt, netip.MustParseAddr(address).AsSlice())
		}
		storePort(w, portAt, 9000)
		expression(w, "nat", func() {
			w.number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
			w.number(unix.NFTA_NAT_FAMILY, family)
			if address != "" {
				w.number(unix.NFTA_NAT_REG_ADDR_MIN, addressAt)
			}
			w.number(unix.NFTA_NAT_REG_PROTO_MIN, portAt)
		})
	}
	for name, tt := range map[string]struct {
		write func(*wire)
		want  effect.Answer
	}{
		"both": {func(w *wire) { to(w, unix.NFPROTO_INET, "") }, effect.CannotTell},
		"the other, and then its own": {func(w *wire) {
			to(w, unix.NFPROTO_IPV6, "fd00::1")
			to(w, unix.NFPROTO_IPV4, server)
		}, effect.Less},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.own(t, client, server)
			other := s.listen(t, server+":9000", 0)
			s.apply(t, IPTables, plan)
			s.RunInput(t, "table inet other {\nchain c { type nat hook output priority -110; }\n}\n", "nft", "-f", "-")
			crafted(t, s, unix.NFPROTO_INET, "c", func(w *wire) {
				meta(w, unix.NFT_META_L4PROTO)
				compare(w, unix.NFT_CMP_EQ, []byte{unix.IPPROTO_TCP})
				tt.write(w)
			})
			err := s.sendAnd(port80, func(int) error {
				if accepted(t, other) == "" {
					t.Error("it goes by the plan's rules")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
		})
	}
}

// A chain of filter at the place where sources are translated comes before those of nat if it was made last.
func TestKernelOfChainsBesideSourceNat(t *testing.T) {
	nstest.Require(t, "nft")
	var b rules.Builder
	b.Append("mangle", "OUTPUT", "", rules.SetMark(1), rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80))
	b.Append("filter", "INPUT", "", rules.Drop, rules.PacketMark(1), rules.InState(rules.StateNew))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	interfaces := []rules.Interface{{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr(client), netip.MustParseAddr(server)}}}
	const (
		filter = "chain f { type filter hook postrouting priority 100; meta mark 3 meta mark set 1; }\n"
		nat    = "chain n { type nat hook postrouting priority 100; meta mark 1 meta mark set 3; }\n"
	)
	for last, chains := range map[string][]string{"filter": {nat, filter}, "nat": {filter, nat}} {
		t.Run(last+" last", func(t *testing.T) {
			s := newSandbox(t)
			s.own(t, client, server)
			app := s.listen(t, server+":80", 0)
			s.apply(t, IPTables, plan)
			for _, chain := range chains {
				s.RunInput(t, "table ip t {\n"+chain+"}\n", "nft", "-f", "-")
			}
			err := s.sendAnd(port80, func(int) error {
				if passes := accepted(t, app) != ""; passes != (last == "filter") {
					t.Errorf("the app gets it: %t", passes)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if r := s.effect(t, plan, interfaces); r.Answer != effect.CannotTell {
				t.Errorf("got %s: %v", r.Answer, r.Differences)
			}
		})
	}
}

// nft's "skuid != X" does not hold for a packet without a socket. Those of iptables, which do, are in TestPacketsWithoutOwner.
func TestKernelOfPacketsWithoutOwner(t *testing.T) {
	nstest.Require(t, "nft")
	s := newSandbox(t)
	s.own(t, client, server)
	s.RunInput(t, watch, "nft", "-f", "-")
	s.RunInput(t, "table ip t {\nchain marks { type route hook output priority -150; meta skuid != 1 meta mark set 0x2; }\n}\n", "nft", "-f", "-")
	s.shoot(t, port80)
	got := elementsOf(s.Run(t, "nft", "list", "table", "inet", "watch"))
	for _, want := range []string{"tcp . " + server + " . 80 . 0x00000002", "tcp . " + client + " . 0x00000000"} {
		if !strings.Contains(got, want) {
			t.Errorf("want %s, seen\n%s", want, got)
		}
	}
}

// A connection whose socket is an ordinary one loses its packets by iptables' TPROXY. In nft the rule does not match them.
func TestKernelOfTProxyAndOrdinarySockets(t *testing.T) {
	nstest.Require(t, "nft")
	for name, tt := range map[string]struct {
		write   func(sandbox)
		arrives bool
	}{
		"iptables": {func(s sandbox) {
			var b rules.Builder
			b.Append("mangle", "PREROUTING", "", rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 7}, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80))
			s.apply(t, IPTables, rules.Plan{V4: b.Ruleset(rules.IPv4)})
		}, false},
		"nft": {func(s sandbox) {
			s.RunInput(t, "table ip t {\nchain c { type filter hook prerouting priority -150; tcp dport 80 tproxy to :15006; }\n}\n", "nft", "-f", "-")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.own(t, client, server)
			app := s.listen(t, server+":80", 0)
			s.listen(t, "0.0.0.0:15006", 1)
			err := s.sendAnd(port80, func(fd int) error { // nothing waits on the way through lo
				of, _, err := unix.Accept4(app, unix.SOCK_NONBLOCK)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Close(of) }()
				tt.write(s)
				if _, err := unix.Write(fd, []byte("hello")); err != nil {
					return err
				}
				n, err := unix.Read(of, make([]byte, 9))
				if arrives := n == 5; arrives != tt.arrives {
					t.Errorf("arrives: %v (%v), want %v", arrives, err, tt.arrives)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
