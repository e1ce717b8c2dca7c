// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// joined is a namespace with a cable to another.
func joined(t *testing.T) *netns.Namespace {
	t.Helper()
	pod := nstest.New(t)
	pod.Peer(t, "10.9.0.0/24", "fd09::/64")
	ns, err := netns.Open(pod.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	inUse(t, ns, "10.9.0.1", "fd09::1")
	return ns
}

// inUse waits until the kernel uses the addresses.
func inUse(t *testing.T, ns *netns.Namespace, addrs ...string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		var late error
		if err := ns.Do(func() error {
			s, err := look()
			for _, addr := range addrs {
				late = errors.Join(late, s.inUse(netip.MustParseAddr(addr)))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if late == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(late)
		}
	}
}

// A pod that has just started has an address that its kernel does not use yet: no rule is wrong for that.
func TestAddressNotInUseYet(t *testing.T) {
	pod := nstest.New(t)
	pod.Peer(t, "10.9.0.0/24")
	pod.Run(t, "sh", "-ec", "ip -6 addr add fd09::1/64 dev eth0; ip -6 route add default dev eth0 src fd09::1 2>/dev/null || ip -6 route add default dev eth0")
	ns, err := netns.Open(pod.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	plan := planFor(t, false)
	if _, err := nftables.New(nftables.Dialect("nftables")).Apply(t.Context(), ns, plan); err != nil {
		t.Fatal(err)
	}
	checks, err := Run(t.Context(), ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for _, c := range checks {
		said = said || strings.Contains(c.Note, "fd09::1 yet")
		if c.Verdict == Wrong {
			t.Error(c)
		}
	}
	if !said {
		t.Log("the kernel was faster: it looks for a second, and a machine may stand still for that")
	}
}

// Whether a listener on :: is one for IPv4 too is the socket's to say.
func TestReadListeners(t *testing.T) {
	ns := joined(t)
	if err := ns.Do(func() error {
		for only, port := range map[int]uint16{0: 7000, 1: 7001} {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only),
				unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.IPv6Unspecified(), port))), unix.Listen(fd, 1))
			if err != nil {
				return err
			}
		}
		all, err := readListeners()
		for _, l := range all {
			if l.only6 != (l.at.Port() == 7001) {
				t.Errorf("%s: only IPv6 %v", l.at, l.only6)
			}
		}
		if len(all) != 2 {
			t.Errorf("%d listeners", len(all))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// What leaves the pod cannot be taken by anybody and goes no further than to the node; a lookup does not come to
// the agent.
func TestWhatLeaves(t *testing.T) {
	pod := nstest.New(t)
	peer, err := netns.Open(pod.Peer(t, "10.9.0.0/24", "fd09::/64").Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	ns, err := netns.Open(pod.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inUse(t, ns, "10.9.0.1", "fd09::1")
	plan := planFor(t, true)
	if _, err := nftables.New(nftables.Dialect("nftables")).Apply(t.Context(), ns, plan); err != nil {
		t.Fatal(err)
	}
	wire, agent := none, none
	t.Cleanup(func() { _ = errors.Join(unix.Close(wire), unix.Close(agent)) })
	if err := peer.Do(func() (err error) {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff // in the order of the network
		wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() (err error) {
		agent, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return errors.Join(err, unix.Bind(agent, sockaddr(netip.MustParseAddrPort("127.0.0.1:15053"))))
	}); err != nil {
		t.Fatal(err)
	}
	checks, err := Run(t.Context(), ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	if n := Counts(checks)[Wrong]; n > 0 {
		t.Errorf("%d are wrong", n)
	}
	seen := 0
	for b := make([]byte, 2048); ; {
		n, _, err := unix.Recvfrom(wire, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if p, number, hops, body, ok := decoded(b[:n]); ok {
			seen++
			if hops != firstHop || checksum(pseudoHeader(p, number, len(body)), body) == 0 {
				t.Errorf("%s to %s leaves with %d hops, and can be taken", p.Source, p.Destination, hops)
			}
		}
	}
	if seen == 0 {
		t.Error("nothing leaves")
	}
	if _, _, err := unix.Recvfrom(agent, make([]byte, 16), 0); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the agent got a lookup: %v", err)
	}
}

// decoded reads a TCP or UDP packet that was sent from the pod.
func decoded(b []byte) (p rules.Packet, number, hops byte, body []byte, ok bool) {
	var from, to netip.Addr
	switch {
	case len(b) >= 28 && b[0] == 0x45:
		number, hops, body = b[9], b[8], b[20:]
		from, to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 48 && b[0]>>4 == 6:
		number, hops, body = b[6], b[7], b[40:]
		from, to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return p, 0, 0, nil, false
	}
	p = rules.Packet{Source: netip.AddrPortFrom(from, 0), Destination: netip.AddrPortFrom(to, 0)}
	own := from == netip.MustParseAddr("10.9.0.1") || from == netip.MustParseAddr("fd09::1")
	return p, number, hops, body, own && (number == unix.IPPROTO_TCP || number == unix.IPPROTO_UDP)
}

// The one connection that somebody can get, where a reset is due and does not come, ends before a word is said.
func TestConnectEndsAtOnce(t *testing.T) {
	ns := joined(t)
	if err := ns.Do(func() error {
		fd := listen(t, "10.9.0.1:8080")
		p := rules.Packet{Protocol: rules.TCP, Source: netip.MustParseAddrPort("10.9.0.1:0"), Destination: netip.MustParseAddrPort("10.9.0.1:8080")}
		refused, release, err := connect(&p, 1000, 1000, answerTime)
		if err != nil || refused {
			t.Fatalf("refused %v, %v", refused, err)
		}
		release()
		conn, _, err := unix.Accept(fd)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(conn) }()
		if n, err := unix.Read(conn, make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%d bytes, %v: it is not ended at once", n, err)
		}
		p.Destination = netip.MustParseAddrPort("10.9.0.1:8081")
		refused, release, err = connect(&p, 1000, 1000, answerTime)
		if err != nil || !refused {
			t.Fatalf("where nobody listens: refused %v, %v", refused, err)
		}
		release()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// listen waits for connections in the calling thread's namespace.
func listen(t *testing.T, at string) (fd int) {
	t.Helper()
	addr := netip.MustParseAddrPort(at)
	fd, err := unix.Socket(domain(rules.Packet{Destination: addr}), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, sockaddr(addr)), unix.Listen(fd, 8)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func nobodyAccepted(t *testing.T, fd int) {
	t.Helper()
	if nfd, _, err := unix.Accept(fd); !errors.Is(err, unix.EAGAIN) {
		_ = unix.Close(nfd)
		t.Errorf("a connection was accepted: %v", err)
	}
}

// halfOpen counts the connections of the calling thread's namespace that are not made yet.
func halfOpen(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "03" {
			n++
		}
	}
	return n
}

// What a kernel would answer that does not look at signatures is taken back.
func TestTakenBack(t *testing.T) {
	nstest.RequireRoot(t) // XDP
	ns := joined(t)
	if err := ns.Do(func() error {
		fd := listen(t, "0.0.0.0:8080")
		s, err := look()
		if err != nil {
			return err
		}
		injector, err := openInjector()
		if err != nil {
			return err
		}
		defer injector.Close()
		p := rules.Packet{Protocol: rules.TCP, Source: netip.MustParseAddrPort("192.0.2.1:40000"), Destination: netip.MustParseAddrPort("10.9.0.1:8080")}
		give := func(f form) {
			t.Helper()
			if err := injector.inject(s.links["eth0"].index, frame(s.links["eth0"].mac, p, encode(p, f))); err != nil {
				t.Fatal(err)
			}
		}
		give(form{flags: flagSYN, sequence: 1000, hops: anyHop, unsigned: true})
		if halfOpen(t) != 1 {
			t.Error("the listener has not answered")
		}
		give(form{flags: flagRST, sequence: 1001, hops: anyHop, unsigned: true})
		if halfOpen(t) != 0 {
			t.Error("the connection is still half open")
		}
		p.Source = netip.AddrPortFrom(p.Source.Addr(), 40001)
		give(form{flags: flagSYN, sequence: 1000, hops: anyHop})
		if halfOpen(t) != 0 {
			t.Error("the listener has answered what is signed")
		}
		nobodyAccepted(t, fd)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// With a kernel that does not show what listeners are given, translation is seen and TPROXY is not; what is taken
// back, too, is noticed by nobody.
func TestKernelThatDoesNotCount(t *testing.T) {
	for mode, want := range map[string]bool{"REDIRECT": false, "TPROXY": true} {
		t.Run(mode, func(t *testing.T) {
			ns, plan := joined(t), planFor(t, false, "sidecar.istio.io/interceptionMode", mode)
			if _, err := nftables.New(nftables.Dialect("nftables")).Apply(t.Context(), ns, plan); err != nil {
				t.Fatal(err)
			}
			plan.Routes = nil // they were not written
			if err := ns.Do(func() error {
				r, err := newRun(ns, plan, false)
				if err != nil {
					return err
				}
				defer r.close()
				unproven := false
				for _, p := range probes(plan, r.scene) {
					c, fresh := r.check(p)
					switch {
					case !fresh:
					case c.Verdict == Unproven && strings.Contains(c.Note, "does not show"):
						unproven = true
					case c.Verdict == Wrong:
						t.Error(c)
					}
				}
				if unproven != want {
					t.Errorf("says that it cannot be proved: %v, want %v", unproven, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The whole of a run leaves nobody with a connection, half open ones included, however the rules are broken.
func TestNobodyIsGivenAConnection(t *testing.T) {
	for _, written := range []bool{true, false} {
		ns, plan := joined(t), planFor(t, true)
		if written {
			if _, err := nftables.New(nftables.Dialect("nftables")).Apply(t.Context(), ns, plan); err != nil {
				t.Fatal(err)
			}
		}
		var fds []int
		if err := ns.Do(func() error {
			for _, at := range []string{"0.0.0.0:15001", "0.0.0.0:15006", "127.0.0.1:15053", "0.0.0.0:8080", "[::1]:8081", "[fd09::1]:8082"} {
				fds = append(fds, listen(t, at))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		checks, err := Run(t.Context(), ns, plan)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(Summary(checks), time.Since(began))
		if wrong := Counts(checks)[Wrong]; (wrong > 0) == written {
			t.Errorf("%d are wrong", wrong)
		}
		if err := ns.Do(func() error {
			for _, fd := range fds {
				nobodyAccepted(t, fd)
			}
			if n := halfOpen(t); n > 0 {
				t.Errorf("%d connections are half open", n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
