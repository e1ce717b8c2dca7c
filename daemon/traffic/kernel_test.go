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
	return ns
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
