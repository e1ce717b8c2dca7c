// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
)

// watch is a table of somebody else that notes which packets come through all rules, and with what marks, in
// which zone. Ports that the kernel may have drawn are left out.
const watch = `table inet watch {
	set seen4 { typeof meta l4proto . ip daddr . th dport . meta mark . ct mark; flags dynamic; size 65535; }
	set seen6 { typeof meta l4proto . ip6 daddr . th dport . meta mark . ct mark; flags dynamic; size 65535; }
	set other4 { typeof meta l4proto . ip daddr . meta mark . ct mark; flags dynamic; size 65535; }
	set other6 { typeof meta l4proto . ip6 daddr . meta mark . ct mark; flags dynamic; size 65535; }
	set zones4 { typeof ip daddr . meta mark; flags dynamic; size 65535; }
	chain ports {
		th dport < 512 add @seen4 { meta l4proto . ip daddr . th dport . meta mark . ct mark }
		th dport < 512 add @seen6 { meta l4proto . ip6 daddr . th dport . meta mark . ct mark }
	}
	chain note {
		meta l4proto { tcp, udp } jump ports
		add @other4 { meta l4proto . ip daddr . meta mark . ct mark }
		add @other6 { meta l4proto . ip6 daddr . meta mark . ct mark }
		ct zone 1 add @zones4 { ip daddr . meta mark }
	}
	chain out { type filter hook postrouting priority 300; jump note; }
	chain in { type filter hook input priority 300; jump note; }
}`

// shot is a packet that a socket of root sends.
type shot struct {
	protocol     int // SOCK_STREAM for the first of a TCP connection, SOCK_DGRAM for UDP
	source, dest netip.AddrPort
	mark         uint32
}

// What comes through the rules of random plans is the same in both dialects: the same packets, answers of the
// kernel's own included, with the same marks, where they were redirected to, in the same zones.
func TestNativeDoesInTheKernelWhatIPTablesDoes(t *testing.T) {
	nstest.Require(t, "nft")
	for _, seed := range sample.Seeds(t, 6, 60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := draw{rand.New(rand.NewPCG(seed, 2))}
			plan := randomPlan(random.Rand)
			shots := random.shots()
			seen := map[Dialect]string{}
			for _, d := range []Dialect{IPTables, Native} {
				s := newSandbox(t)
				s.own(t, ownAddresses...)
				s.RunInput(t, watch, "nft", "-f", "-")
				if _, err := New(d).Apply(t.Context(), s.ns, plan); err != nil {
					t.Fatal(err)
				}
				for _, shot := range shots {
					s.shoot(t, shot)
				}
				seen[d] = elementsOf(s.Run(t, "nft", "list", "table", "inet", "watch"))
			}
			if diff := cmp.Diff(seen[IPTables], seen[Native]); diff != "" {
				t.Errorf("(-with iptables, +with the native table)\n%s\n%s", diff, plan.V4)
			}
		})
	}
}

// ownAddresses are within the ranges that random rules name, or not.
var ownAddresses = []string{"10.1.2.3", "10.200.0.1", "11.0.0.1", "200.0.0.1", "fd00::1", "fd81::1", "fe01::1", "9000::1"}

// own gives lo addresses, and waits until what is sent to them arrives: of IPv6 the kernel adds the route later.
func (s sandbox) own(t testing.TB, addresses ...string) {
	t.Helper()
	for _, a := range addresses {
		s.Run(t, "ip", "addr", "add", a, "dev", "lo", "nodad")
		self := netip.AddrPortFrom(netip.MustParseAddr(a), 9)
		for err := errors.New("not tried"); err != nil; {
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			err = s.sendAnd(shot{unix.SOCK_DGRAM, self, self, 0}, func(fd int) error {
				_, err := unix.Read(fd, make([]byte, 1)) // its own
				return err
			})
		}
	}
}

func (d draw) shots() []shot {
	var all []shot
	for range 60 {
		family := d.one(2)
		own := func() netip.Addr {
			for {
				if a := netip.MustParseAddr(pick(d, append(ownAddresses, "127.0.0.1", "::1")...)); a.Is6() == family {
					return a
				}
			}
		}
		s := shot{protocol: pick(d, unix.SOCK_STREAM, unix.SOCK_DGRAM), source: netip.AddrPortFrom(own(), pick[uint16](d, 65535, 50000, 50001)),
			dest: netip.AddrPortFrom(own(), d.port()), mark: pick[uint32](d, 0, 0, 1, 2)}
		all = append(all, s)
		if s.protocol == unix.SOCK_DGRAM && d.one(2) { // as if it were answered
			all = append(all, shot{s.protocol, s.dest, s.source, s.mark}, s)
		}
	}
	return all
}

// shoot sends a packet, which may be refused. It has gone its way when the call returns: nothing waits on the
// way through lo.
func (s sandbox) shoot(t testing.TB, shot shot) {
	t.Helper()
	if err := s.sendAnd(shot, func(int) error { return nil }); errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENETUNREACH) {
		t.Fatalf("%s to %s: %v", shot.source, shot.dest, err)
	}
}

// sendAnd calls then with the socket where the packet is sent.
func (s sandbox) sendAnd(shot shot, then func(fd int) error) error {
	return s.ns.Do(func() error {
		family := unix.AF_INET
		if shot.dest.Addr().Is6() {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, shot.protocol|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(shot.mark)),
			unix.Bind(fd, socketAddress(shot.source)))
		if err != nil {
			return err
		}
		err = unix.Connect(fd, socketAddress(shot.dest))
		if err == nil && shot.protocol == unix.SOCK_DGRAM {
			_, err = unix.Write(fd, []byte("x"))
		}
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return then(fd)
	})
}

func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

var (
	setsOfText  = regexp.MustCompile(`(?s)set (\w+) \{(.*?)\n\t\}`)
	elementList = regexp.MustCompile(`(?s)elements = \{(.*)\}`)
)

// elementsOf returns the elements of the sets that nft listed, in one order.
func elementsOf(listing string) string {
	var text strings.Builder
	for _, set := range setsOfText.FindAllStringSubmatch(listing, -1) {
		fmt.Fprintln(&text, set[1])
		if list := elementList.FindStringSubmatch(set[2]); list != nil {
			var all []string
			for e := range strings.SplitSeq(list[1], ",") {
				all = append(all, strings.TrimSpace(e))
			}
			slices.Sort(all)
			fmt.Fprintln(&text, " ", strings.Join(all, "\n  "))
		}
	}
	return text.String()
}
