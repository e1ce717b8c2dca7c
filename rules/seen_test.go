// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// What a key lacks for what was seen, and that with it the lockdown counts the packet no more.
func TestLacks(t *testing.T) {
	interfaces := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}}
	pod := annotated("traffic.sidecar.istio.io/excludeOutboundPorts", "5432,53", "traffic.sidecar.istio.io/excludeInboundPorts", "22")
	counting := func() rules.Lockdown {
		l := whole(t)
		l.Enforce, l.ProxyEgress = false, []rules.Peer{peer(t, "10.9.0.0/16:443/tcp")}
		return l
	}
	for name, tt := range map[string]struct {
		protocol, peer string
		port           uint16
		uid            uint32
		class          rules.Class
		want           string
	}{
		"udp":              {rules.UDP, "10.0.0.5", 8125, 1000, rules.ClassUDP, "allow 10.0.0.5/32:8125/udp"},
		"a lookup":         {rules.UDP, "10.96.0.11", 53, 1000, rules.ClassUDP, "dns_servers 10.96.0.11"},
		"a lookup by tcp":  {rules.TCP, "10.96.0.11", 53, 1000, rules.ClassEgress, "dns_servers 10.96.0.11"},
		"tcp":              {rules.TCP, "10.0.0.5", 5432, 1000, rules.ClassEgress, "allow 10.0.0.5/32:5432/tcp"},
		"tcp of the proxy": {rules.TCP, "10.0.0.5", 15012, 1337, rules.ClassProxy, "proxy_egress 10.0.0.5/32:15012/tcp"},
		"udp of the proxy": {rules.UDP, "10.0.0.5", 4317, 1337, rules.ClassProxy, "proxy_egress 10.0.0.5/32:4317/udp"},
		"ping":             {rules.ICMP, "10.0.0.5", 0, 1000, rules.ClassICMP, "icmp any"},
		"sctp":             {"sctp", "10.0.0.5", 0, 1000, rules.ClassOther, "other_protocols any"},
		"admin port":       {rules.TCP, "127.0.0.1", 15000, 1000, rules.ClassLocal, "local_ports 15000"},
		"in":               {rules.TCP, "10.8.0.5", 22, 0, rules.ClassInbound, "allow_inbound 10.8.0.5/32:22/tcp"},
		"in, udp":          {rules.UDP, "10.8.0.5", 161, 0, rules.ClassInbound, "allow_inbound 10.8.0.5/32:161/udp"},
		"in, ping":         {rules.ICMP, "10.8.0.5", 0, 0, rules.ClassInbound, "icmp any"},
		"in, sctp":         {"sctp", "10.8.0.5", 0, 0, rules.ClassInbound, " "},
	} {
		t.Run(name, func(t *testing.T) {
			there, here := netip.MustParseAddr(tt.peer), netip.MustParseAddr("10.244.1.7")
			p := rules.Packet{Protocol: tt.protocol, Source: netip.AddrPortFrom(here, 40000), Destination: netip.AddrPortFrom(there, tt.port), Out: "eth0", Socket: true, UID: tt.uid, GID: tt.uid}
			if tt.class == rules.ClassInbound {
				p = rules.Packet{Direction: rules.Inbound, In: "eth0", Protocol: tt.protocol, Source: netip.AddrPortFrom(there, 40000), Destination: netip.AddrPortFrom(here, tt.port)}
			}
			class := func(l rules.Lockdown) rules.Class {
				path, err := effect.Trace(lockedPlan(t, pod, l), p, interfaces)
				if err != nil {
					t.Fatal(err)
				}
				marked, _ := rules.ClassOf(path.End.ConnMark)
				if c, _, _ := path.Locked(); c != marked {
					t.Errorf("counted as %q, and marked as %q", c, marked)
				}
				return marked
			}
			l := counting()
			if got := class(l); got != tt.class {
				t.Fatalf("counted as %q", got)
			}
			s := rules.Seen{Class: tt.class, Protocol: tt.protocol, Peer: there, Port: tt.port}
			key, value := l.Lacks(s)
			if got := key + " " + value; got != tt.want {
				t.Fatalf("%s lacks %q, want %q", s, got, tt.want)
			}
			switch key {
			case "":
				return
			case "allow":
				l.Allow = append(l.Allow, peer(t, value))
			case "allow_inbound":
				l.Admit = append(l.Admit, peer(t, value))
			case "proxy_egress":
				l.ProxyEgress = append(l.ProxyEgress, peer(t, value))
			case "dns_servers":
				l.DNSServers = append(l.DNSServers, netip.MustParseAddr(value))
			case "icmp":
				l.ICMP = false
			case "other_protocols":
				l.Others = false
			case "local_ports":
				l.LocalPorts = l.LocalPorts[1:]
			}
			if got := class(l); got != "" {
				t.Errorf("with %s %s it is still counted as %q", key, value, got)
			}
			if key, value := l.Lacks(s); key != "" {
				t.Errorf("with that it lacks %s %s", key, value)
			}
		})
	}
}

// The merged list lets pass what the list did, and nothing else.
func TestMergePeers(t *testing.T) {
	for list, want := range map[string]string{
		"": "", "10.0.0.5/32:1/tcp": "10.0.0.5/32:1/tcp",
		"10.0.0.5/32:1/tcp 10.0.0.4/32:1/tcp":                                     "10.0.0.4/31:1/tcp",
		"10.0.0.5/32:1/tcp 10.0.0.6/32:1/tcp":                                     "10.0.0.5/32:1/tcp 10.0.0.6/32:1/tcp",
		"10.0.0.5/32:1/tcp 10.0.0.4/32:1/udp":                                     "10.0.0.5/32:1/tcp 10.0.0.4/32:1/udp",
		"10.0.0.5/32:3/tcp 10.0.0.5/32:1/tcp 10.0.0.5/32:2/tcp":                   "10.0.0.5/32:1-3/tcp",
		"10.0.0.5/32:1/tcp 10.0.0.5/32:2/tcp 10.0.0.4/32:2/tcp 10.0.0.4/32:1/tcp": "10.0.0.4/31:1-2/tcp",
		"10.0.0.5/32:65535/tcp 10.0.0.5/32:65535/tcp":                             "10.0.0.5/32:65535/tcp",
		"fd00::1/128:1/udp 10.0.0.0/32:1/udp fd00::/128:1/udp":                    "fd00::/127:1/udp 10.0.0.0/32:1/udp",
	} {
		var peers []rules.Peer
		for _, text := range strings.Fields(list) {
			peers = append(peers, peer(t, text))
		}
		var got []string
		for _, p := range rules.MergePeers(peers) {
			got = append(got, p.String())
		}
		slices.Sort(got)
		wanted := strings.Fields(want)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: got %s, want %s", list, got, want)
		}
	}
}

// A connection's mark names the class that counted it, and no other mark does.
func TestClassOf(t *testing.T) {
	for mark, want := range map[uint32]rules.Class{rules.CountedMark: rules.ClassUDP, rules.CountedMark + 3: rules.ClassEgress, rules.CountedMark + 99: "", 0: "", 1337: "", 3: ""} {
		if c, ok := rules.ClassOf(mark); c != want || ok != (want != "") {
			t.Errorf("%#x: %q, %v", mark, c, ok)
		}
	}
}
