// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// An app without any capability, and a neighbour, try to get around a proxy that speaks only IPv4: by link-local
// addresses, and by one that the neighbour's router advertisement gives the pod when its rules are long there. When
// they were written, the pod had IPv6 switched off, or no address but a link-local one.
func TestIPv6ByAnAttacker(t *testing.T) {
	for _, tt := range []struct {
		mode    rules.WithoutIPv6
		off     bool
		link    string // what comes of a connection to the neighbour's link-local address
		out, in string // and of one to its global address, and from it; the error of connect, or the listener
	}{
		{rules.IPv6Block, false, "refused", "refused", "refused"},
		{rules.IPv6Block, true, "refused", "refused", "refused"},
		// A socket that the zone binds to eth0 cannot be led to the proxy on lo: nobody answers it.
		{rules.IPv6Capture, false, "timeout", "outbound", "inbound"},
		{rules.IPv6Capture, true, "timeout", "outbound", "inbound"},
	} {
		t.Run(fmt.Sprintf("%s, switched off: %t", tt.mode, tt.off), func(t *testing.T) {
			onBackends(t, func(t *testing.T, variant string) {
				defaults := istio.Standard()
				defaults.WithoutIPv6, defaults.DNSCapture = tt.mode, true
				e := newEnforcer(t, variant, defaults)
				ns := nstest.New(t)
				if tt.off {
					disableIPv6(t, ns, "1")
				}
				peer := ns.Peer(t, "10.9.0.0/24")
				pod := meshed(ns.Path)
				pod.IPs = []netip.Addr{netip.MustParseAddr(pod4)} // as a runtime tells them
				protect(t, e, pod)
				disableIPv6(t, ns, "0")

				start(t, ns, proxy, proxy, "proxy").listening(t, labtest.ProxyListeners...)
				serve(t, ns, app, "18080", "app")
				serve(t, peer, root, "19090", "peer")
				podLink, peerLink := linkLocal(t, ns), linkLocal(t, peer)
				try := func(from *nstest.Namespace, to netip.Addr, port int, want string) {
					t.Helper()
					reply, failure := dial(t, from, app, app, "tcp6", netip.AddrPortFrom(to, uint16(port)).String())
					if !strings.HasPrefix(reply, want) && !strings.HasSuffix(failure, want) {
						t.Errorf("to %s: %q, %q, want %s", to, reply, failure, want)
					}
				}
				try(ns, peerLink, 19090, tt.link)
				try(peer, podLink, 18080, tt.in)

				prefix := netip.MustParsePrefix("fd66::/64")
				peer.Run(t, "ip", "addr", "add", "fd66::2/64", "dev", "eth0", "nodad")
				advertise(t, peer, prefix)
				late := wait(t, ns, prefix.Contains)
				try(ns, netip.MustParseAddr("fd66::2"), 19090, tt.out)
				try(peer, late, 18080, tt.in)
				if tt.mode == rules.IPv6Block {
					refusedLookups(t, ns, peer)
				}
			})
		})
	}
}

// refusedLookups: those of the app are refused at once, those of the proxy come to the name server.
func refusedLookups(t *testing.T, pod, server *nstest.Namespace) {
	t.Helper()
	var listener net.PacketConn
	in(t, server, func() (err error) {
		listener, err = net.ListenPacket("udp6", "[fd66::2]:53")
		return err
	})
	defer func() { _ = listener.Close() }()
	ask := func(uid uint32, text string) (err error) {
		in(t, pod, func() error {
			p := rules.Packet{Protocol: rules.UDP, UID: uid, Source: netip.AddrPortFrom(netip.IPv6Unspecified(), 0), Destination: netip.MustParseAddrPort("[fd66::2]:53")}
			err = say(p, text)
			return nil
		})
		return err
	}
	for range 3 {
		if err := ask(app, "app"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a lookup of the app: %v", err)
		}
	}
	if err := ask(proxy, "proxy"); err != nil {
		t.Errorf("a lookup of the proxy: %v", err)
	}
	got := make([]byte, 16)
	if err := listener.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := listener.ReadFrom(got); err != nil || string(got[:n]) != "proxy" {
		t.Errorf("the name server got %q, %v", got[:n], err)
	}
}

func in(t *testing.T, ns *nstest.Namespace, do func() error) {
	t.Helper()
	inside, err := netns.Open(ns.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if err := inside.Do(do); err != nil {
		t.Fatal(err)
	}
}

func disableIPv6(t *testing.T, ns *nstest.Namespace, to string) {
	t.Helper()
	ns.Run(t, "sh", "-c", "echo "+to+" > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo "+to+" > /proc/sys/net/ipv6/conf/default/disable_ipv6; "+
		"echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $f; done")
}

// linkLocal waits for the link-local address of eth0, and returns it with its interface.
func linkLocal(t *testing.T, ns *nstest.Namespace) netip.Addr {
	t.Helper()
	return wait(t, ns, netip.Addr.IsLinkLocalUnicast).WithZone("eth0")
}

// wait returns an address of eth0 that can be used by now.
func wait(t *testing.T, ns *nstest.Namespace, is func(netip.Addr) bool) netip.Addr {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); ; {
		fields := strings.Fields(ns.Run(t, "ip", "-6", "-o", "addr", "show", "dev", "eth0", "-tentative"))
		for _, field := range fields {
			if prefix, err := netip.ParsePrefix(field); err == nil && is(prefix.Addr()) {
				return prefix.Addr()
			}
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("no such address: %s", fields)
		}
	}
}

// advertise sends a router's advertisement of a prefix from which all neighbours are to make themselves an address
// (RFC 4861, 4.2 and 4.6.2). It takes no more than to be a neighbour's root.
func advertise(t *testing.T, ns *nstest.Namespace, prefix netip.Prefix) {
	t.Helper()
	message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // the kernel fills in the checksum
	option := []byte{3, 4, byte(prefix.Bits()), 0xc0}                    // on the link, and for addresses
	option = append(option, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0)      // for an hour
	option = append(option, prefix.Addr().AsSlice()...)
	message = append(message, option...)

	in(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		all := unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Index)}
		return unix.Sendto(fd, message, 0, &all)
	})
}
