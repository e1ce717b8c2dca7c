// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// Lookups of a container within the pod, behind NAT there, get no answer while the rules for DNS capture put every answer into a zone of
// its own, in which nothing is known of that NAT. Only for answers to sockets of the pod it would do no harm. That condition
// (xt_socket) is not written all the same: rules are the mesh's own line by line, its module is on few nodes, and what it does depends on
// which sockets are there, so that nobody could tell any more what becomes of packets.
func TestLookupsWithinThePod(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	for name, tt := range map[string]struct {
		match []string
		inner bool // whether the container gets its answer
	}{"every answer": {nil, false}, "answers to sockets": {[]string{"-m", "socket", "--nowildcard"}, true}} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			inner := newSandbox(t)
			server, err := netns.Open(s.Peer(t, "10.0.0.0/24").Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Close)
			s.Run(t, "ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", inner.Path)
			s.Run(t, "ip", "addr", "add", "172.17.0.1/16", "dev", "docker0")
			s.Run(t, "ip", "link", "set", "docker0", "up")
			inner.Run(t, "ip", "addr", "add", "172.17.0.2/16", "dev", "eth0")
			inner.Run(t, "ip", "link", "set", "eth0", "up")
			inner.Run(t, "ip", "route", "add", "default", "via", "172.17.0.1")
			s.Run(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
			s.Run(t, "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE")
			s.Run(t, "iptables-nft", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "--dport", "53", "-j", "CT", "--zone", "1")
			s.Run(t, "iptables-nft", append(append([]string{"-t", "raw", "-A", "PREROUTING", "-p", "udp", "--sport", "53"}, tt.match...), "-j", "CT", "--zone", "1")...)
			lookups, others := udp(t, server, "10.0.0.2:53", ""), udp(t, server, "10.0.0.2:54", "")
			for _, from := range []struct {
				ns   *netns.Namespace
				want bool
			}{{s.ns, true}, {inner.ns, tt.inner}} {
				lookup, other := udp(t, from.ns, "", "10.0.0.2:53"), udp(t, from.ns, "", "10.0.0.2:54")
				for i, asked := range []*net.UDPConn{lookup, other} {
					if _, err := asked.Write([]byte("?")); err != nil {
						t.Fatal(err)
					}
					at := []*net.UDPConn{lookups, others}[i]
					_, who, err := at.ReadFromUDP(make([]byte, 8))
					if err == nil {
						_, err = at.WriteToUDP([]byte("!"), who)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				if _, err := other.Read(make([]byte, 8)); err != nil { // comes behind the lookup's answer
					t.Fatal(err)
				}
				if got := waiting(t, lookup); got != from.want {
					t.Errorf("an answer: %v, want %v", got, from.want)
				}
			}
		})
	}
}

// udp returns a socket of a namespace that is bound, or connected.
func udp(t testing.TB, ns *netns.Namespace, local, remote string) (c *net.UDPConn) {
	t.Helper()
	err := ns.Do(func() (err error) {
		if local != "" {
			c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)))
		} else {
			c, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(remote)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// waiting reports whether something can be read at once.
func waiting(t testing.TB, c *net.UDPConn) (something bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 8), unix.MSG_DONTWAIT)
			something = err == nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return something
}
