// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/rules"
)

// onWire is what is asked of a packet that leaves the pod: its protocol, where it goes, and of ICMP the type and the code.
type onWire struct {
	protocol, kind, code uint8
	to                   netip.Addr
}

func parseOnWire(p []byte) (w onWire) {
	header := 20
	if len(p) >= 40 && p[0]>>4 == 6 {
		w.protocol, w.to, header = p[6], netip.AddrFrom16([16]byte(p[24:])), 40
	} else if len(p) >= header {
		w.protocol, w.to = p[9], netip.AddrFrom4([4]byte(p[16:]))
	}
	if len(p) >= header+2 && (w.protocol == unix.IPPROTO_ICMP || w.protocol == unix.IPPROTO_ICMPV6) {
		w.kind, w.code = p[header], p[header+1]
	}
	return w
}

// leaves puts packets before the pod, one after the other, until the last one's fate is seen by the peer, and returns all that it has
// seen until then.
func (g *gallery) leaves(name string, last onWire, packets ...[]byte) (all []onWire, err error) {
	protocol := uint16(unix.ETH_P_IP)
	if last.to.Is6() {
		protocol = unix.ETH_P_IPV6
	}
	err = g.peer.do(func() error {
		tap, err := open(unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(protocol)))
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(tap) }()
		for _, p := range packets {
			if err := g.put(name, last.to, p); err != nil {
				return err
			}
		}
		for buffer := make([]byte, 2048); ; {
			if err := poll([]unix.PollFd{{Fd: int32(tap), Events: unix.POLLIN}}, patience); err != nil {
				return fmt.Errorf("%+v does not leave: %w", last, err)
			}
			n, _, err := unix.Recvfrom(tap, buffer, 0)
			if err != nil {
				return fmt.Errorf("tap: %w", err)
			}
			if all = append(all, parseOnWire(buffer[:n])); all[len(all)-1] == last {
				return nil
			}
		}
	})
	return all, err
}

func datagram(from, to string, size int) segment {
	return segment{protocol: rules.UDP, source: netip.MustParseAddrPort(from), destination: netip.MustParseAddrPort(to), payload: make([]byte, size)}
}

// inBothDialects tries something with what each of the kernel's two kinds of rules makes of a lockdown.
func inBothDialects(t *testing.T, try func(t *testing.T, g *gallery)) {
	for _, b := range backends[:2] {
		t.Run(b.name, func(t *testing.T) {
			anyUser(t, b.name)
			try(t, newGallery(t, labtest.Firewall(t, b.name)))
		})
	}
}

// The kernel's own errors leave a pod that closes all other ICMP: that nobody listens to a datagram, and that a packet which the pod
// forwards is larger than its way.
func TestErrorsLeaveALockdown(t *testing.T) {
	inBothDialects(t, func(t *testing.T, g *gallery) {
		if err := g.write(t.Context(), lockedPlans(t, locked["dropped, and the proxy too"])["a machine"]); err != nil {
			t.Fatal(err)
		}
		if err := g.pod.do(func() error {
			link, err := plugged("eth0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(link, 1280)
		}); err != nil {
			t.Fatal(err)
		}
		large := datagram("192.168.1.50:40000", "10.1.0.5:5432", 1300).bytes(0, false)
		large[6] |= 0x40 // it must not be cut into pieces
		large[10], large[11] = 0, 0
		binary.BigEndian.PutUint16(large[10:], ^fold(sumOf(0, large[:20])))
		for name, tt := range map[string]struct {
			by     string
			packet []byte
			want   onWire
		}{
			"nobody listens":       {"eth0", datagram("203.0.113.5:40000", "10.244.1.7:9999", 8).bytes(0, false), onWire{unix.IPPROTO_ICMP, 3, 3, netip.MustParseAddr("203.0.113.5")}},
			"nobody listens, IPv6": {"eth0", datagram("[2001:db8::5]:40000", "[fd00:10:244::7]:9999", 8).bytes(0, false), onWire{unix.IPPROTO_ICMPV6, 1, 4, netip.MustParseAddr("2001:db8::5")}},
			"too large":            {"net1", large, onWire{unix.IPPROTO_ICMP, 3, 4, netip.MustParseAddr("192.168.1.50")}},
			"too large, IPv6":      {"net1", datagram("[fd00:c0:1::50]:40000", "[fd00:5::5]:5432", 1300).bytes(0, false), onWire{unix.IPPROTO_ICMPV6, 2, 0, netip.MustParseAddr("fd00:c0:1::50")}},
		} {
			if _, err := g.leaves(tt.by, tt.want, tt.packet); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// What a pod forwards for something behind a rerouted interface meets its lockdown too: what that opens goes on, the rest is answered.
func TestForwardedByALockdown(t *testing.T) {
	inBothDialects(t, func(t *testing.T, g *gallery) {
		if err := g.write(t.Context(), lockedPlans(t, locked["everything"])["a machine"]); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			from, closed, open string
			answer             onWire
		}{
			{"192.168.1.50:40000", "203.0.113.5:443", "10.96.0.10:53", onWire{unix.IPPROTO_ICMP, 3, 3, netip.MustParseAddr("192.168.1.50")}},
			{"[fd00:c0:1::50]:40000", "[2001:db8::5]:443", "[fd00:96::a]:53", onWire{unix.IPPROTO_ICMPV6, 1, 4, netip.MustParseAddr("fd00:c0:1::50")}},
		} {
			last := onWire{protocol: unix.IPPROTO_UDP, to: netip.MustParseAddrPort(tt.open).Addr()}
			seen, err := g.leaves("net1", last, datagram(tt.from, tt.closed, 8).bytes(0, false), datagram(tt.from, tt.open, 8).bytes(0, false))
			if err != nil {
				t.Error(err)
			}
			answered := false
			for _, p := range seen {
				answered = answered || p == tt.answer
				if p.to == netip.MustParseAddrPort(tt.closed).Addr() {
					t.Errorf("to %s goes on", tt.closed)
				}
			}
			if !answered {
				t.Errorf("to %s is not answered: %+v", tt.closed, seen)
			}
		}
	})
}

// A connection that is older than the rules goes on in both directions, as verify --repair leaves it; another one like it is refused.
func TestConnectionsOlderThanALockdown(t *testing.T) {
	inBothDialects(t, func(t *testing.T, g *gallery) {
		plan := lockedPlans(t, locked["everything"])["istio"]
		if err := g.write(t.Context(), plan.Unlocked()); err != nil {
			t.Fatal(err)
		}
		to := netip.MustParseAddrPort("203.0.113.5:5432") // a port that the pod excludes from the mesh
		var listener, old, accepted int
		wait := func(fd int, events int16) error {
			return poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, patience)
		}
		connect := func(fd *int) error {
			return g.pod.do(func() error {
				return owned(1000, 1000, func() (err error) {
					if *fd, err = open(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
						return err
					}
					if err := unix.Connect(*fd, sockaddr(to, 0)); !errors.Is(err, unix.EINPROGRESS) {
						return err
					}
					if err := wait(*fd, unix.POLLOUT); err != nil {
						return err
					}
					n, err := unix.GetsockoptInt(*fd, unix.SOL_SOCKET, unix.SO_ERROR)
					if err == nil && n != 0 {
						err = unix.Errno(n)
					}
					return err
				})
			})
		}
		talk := func(from, to int) error {
			if _, err := unix.Write(from, []byte("on")); err != nil {
				return fmt.Errorf("say: %w", err)
			}
			if err := wait(to, unix.POLLIN); err != nil {
				return err
			}
			_, err := unix.Read(to, make([]byte, 8))
			return err
		}
		err := g.peer.do(func() (err error) {
			if listener, err = open(unix.AF_INET, unix.SOCK_STREAM, 0, transparent(unix.AF_INET)...); err != nil {
				return err
			}
			return errors.Join(unix.Bind(listener, sockaddr(to, 0)), unix.Listen(listener, 1))
		})
		if err != nil {
			t.Fatal(err)
		}
		defer abort(listener)
		if err := connect(&old); err != nil {
			t.Fatal(err)
		}
		defer abort(old)
		if err := wait(listener, unix.POLLIN); err != nil {
			t.Fatal(err)
		}
		if accepted, _, err = unix.Accept(listener); err != nil {
			t.Fatal(err)
		}
		defer abort(accepted)
		if err := errors.Join(talk(old, accepted), talk(accepted, old)); err != nil {
			t.Fatalf("before the lockdown: %v", err)
		}
		if err := g.write(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(talk(old, accepted), talk(accepted, old)); err != nil {
			t.Errorf("the connection does not go on: %v", err)
		}
		another := -1
		if err := connect(&another); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("another one: %v", err)
		}
		abort(another)
	})
}
