// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// checked is a protected pod with a proxy and an app, in which packets are sent.
type checked struct {
	pair
	app     *program // listens on 18082, which is excluded
	enforce *daemon.Enforcer
	spec    rules.Pod
}

const special = "10.8.0.0/16,fd08::/64"

func newChecked(t *testing.T, variant, mode string) checked {
	t.Helper()
	pod := meshed("", "sidecar.istio.io/interceptionMode", mode, "traffic.sidecar.istio.io/excludeOutboundPorts", "19091",
		"traffic.sidecar.istio.io/excludeOutboundIPRanges", special, "traffic.sidecar.istio.io/excludeInboundPorts", "18082")
	pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true", "ISTIO_META_DNS_CAPTURE": "true"}}}
	var transparent []string
	if mode == "TPROXY" {
		transparent = []string{"--transparent"}
	}
	c := checked{pair: newPair(t, variant, istio.Standard(), pod, transparent...), enforce: newEnforcer(t, variant, istio.Standard()), spec: pod}
	c.spec.NetNS = c.pod.Path
	c.app = start(t, c.pod, app, app, "serve", "0.0.0.0:18082", "excluded").listening(t, "0.0.0.0:18082")
	return c
}

// send sends the packets for the plan that the pod is to hold.
func (c checked) send(t *testing.T) []traffic.Check {
	t.Helper()
	o := c.enforce.Verify(labtest.Within(t, time.Minute), c.spec)
	if o.Err != nil {
		t.Fatal(o.Err)
	}
	return sendIn(t, c.pod.Path, o.Plan)
}

func sendIn(t *testing.T, path string, plan rules.Plan) []traffic.Check {
	t.Helper()
	nstest.RequireRoot(t) // XDP
	host, err := netns.Host("")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open(path, host)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	settled(t, ns)
	checks, err := traffic.Run(labtest.Within(t, time.Minute), ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	return checks
}

// settled waits until the kernel uses every address of the namespace: until then packets for it do not stay there.
func settled(t *testing.T, ns *netns.Namespace) {
	t.Helper()
	for ctx := labtest.Within(t, time.Minute); ; {
		var late []string
		if err := ns.Do(func() error {
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
			for _, a := range addrs {
				if routes, err := netlink.RouteGet(a.IP); !a.IP.IsLinkLocalUnicast() && (err != nil || routes[0].Type != unix.RTN_LOCAL) {
					late = append(late, a.String())
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(late) == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("not in use: %v", late)
		}
	}
}

// right fails the test for every check that does not show what the rules say.
func right(t *testing.T, checks []traffic.Check) {
	t.Helper()
	for _, c := range checks {
		if c.Verdict != traffic.Right {
			t.Error(c)
		}
	}
}

// places counts what the checks saw, for those that are right.
func places(checks []traffic.Check) map[string]int {
	n := map[string]int{}
	for _, c := range checks {
		if c.Verdict == traffic.Right {
			n[fmt.Sprintf("%d %s %s %d", c.Packet.Family(), c.Packet.Protocol, c.Seen.Kind, c.Seen.Port)]++
		}
	}
	return n
}

// Right rules pass, everything that they speak of is tried in both families, nobody gets a connection, and the
// kernel remembers none.
func TestTrafficOfRightRules(t *testing.T) {
	for mode, captured := range map[string]rules.EndKind{"REDIRECT": rules.Redirected, "TPROXY": rules.TProxied} {
		t.Run(mode, func(t *testing.T) {
			onBackends(t, func(t *testing.T, variant string) {
				c := newChecked(t, variant, mode)
				checks := c.send(t)
				right(t, checks)
				seen := places(checks)
				for _, family := range []string{"4 ", "6 "} {
					for _, place := range []string{"tcp redirected 15001", "tcp " + string(captured) + " 15006", "tcp redirected 15053",
						"udp redirected 15053", "tcp delivered 18082", "tcp delivered 15020", "tcp leaves 0", "udp leaves 0"} {
						if seen[family+place] == 0 {
							t.Errorf("no packet for %s; all: %v", family+place, seen)
						}
					}
				}
				if left := labtest.Tracked(t, c.pod.Path); len(left) > 0 {
					t.Errorf("the kernel remembers %v", left)
				}
				c.nobodyNoticed(t)
			})
		})
	}
}

// nobodyNoticed proves that the first connections that the app and the proxy accept are those made now.
func (c checked) nobodyNoticed(t *testing.T) {
	t.Helper()
	c.try(t, attempt{"peer", app, "tcp4", pod4 + ":18082", "excluded"})
	if e := c.app.accepted(t); !strings.HasPrefix(e.Peer, "10.9.0.2:") {
		t.Errorf("the app accepted %+v", e)
	}
	c.try(t, attempt{"pod", app, "tcp4", peer4 + ":19090", "outbound"})
	if e := c.proxy.accepted(t); e.OriginalDst != peer4+":19090" {
		t.Errorf("the proxy accepted %+v", e)
	}
}

// What the other ways to treat a pod look like from within.
func TestTrafficOfOtherPlans(t *testing.T) {
	for _, tt := range []struct {
		name        string
		change      func(*istio.Defaults)
		annotations []string
		ipv6        bool // there are rules for it
		seen        []string
	}{
		{"IPv6 blocked", func(d *istio.Defaults) { d.WithoutIPv6, d.DNSCapture = rules.IPv6Block, true }, nil, true,
			[]string{"4 tcp redirected 15001", "6 tcp refused 0", "6 tcp delivered 15021", "4 udp redirected 15053", "6 udp refused 0", "6 udp leaves 0"}},
		{"IPv6 around", func(*istio.Defaults) {}, nil, false, []string{"4 tcp redirected 15001", "4 tcp redirected 15006"}},
		{"named ports in, nothing out", func(*istio.Defaults) {}, []string{"traffic.sidecar.istio.io/includeInboundPorts", "18080",
			"traffic.sidecar.istio.io/includeOutboundIPRanges", ""}, false, []string{"4 tcp redirected 15006", "4 tcp leaves 0", "4 tcp delivered 80"}},
		{"a range and a port out", func(*istio.Defaults) {}, []string{"traffic.sidecar.istio.io/includeOutboundIPRanges", "10.7.0.0/16",
			"traffic.sidecar.istio.io/includeOutboundPorts", "443"}, false, []string{"4 tcp redirected 15001", "4 tcp leaves 0"}},
		{"some groups only", func(d *istio.Defaults) { d.OwnerGroups = []uint32{2001} }, nil, false,
			[]string{"4 tcp redirected 15001", "4 tcp leaves 0"}},
		{"invalid packets dropped", func(d *istio.Defaults) { d.InvalidDrop = true }, nil, false, []string{"4 tcp redirected 15001", "4 tcp redirected 15006"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, variant string) {
				defaults := istio.Standard()
				tt.change(&defaults)
				p := newPair(t, variant, defaults, meshed("", tt.annotations...))
				pod := meshed(p.pod.Path, tt.annotations...)
				checks := sendIn(t, p.pod.Path, newEnforcer(t, variant, defaults).Verify(labtest.Within(t, time.Minute), pod).Plan)
				right(t, checks)
				for _, want := range tt.seen {
					if places(checks)[want] == 0 {
						t.Errorf("no packet for %s; all: %v", want, places(checks))
					}
				}
				if six := slices.ContainsFunc(checks, func(c traffic.Check) bool { return c.Packet.Family() == rules.IPv6 }); six != tt.ipv6 {
					t.Errorf("sends IPv6: %v, want %v", six, tt.ipv6)
				}
				if left := labtest.Tracked(t, p.pod.Path); len(left) > 0 {
					t.Errorf("the kernel remembers %v", left)
				}
			})
		})
	}
}

// What comes by an excluded interface goes to the app, and what would go through the pod is not sent.
func TestTrafficByAnExcludedInterface(t *testing.T) {
	for _, mode := range []string{"REDIRECT", "TPROXY"} {
		t.Run(mode, func(t *testing.T) {
			annotations := []string{"sidecar.istio.io/interceptionMode", mode, "traffic.sidecar.istio.io/excludeInterfaces", "net1"}
			p := newPair(t, backend.IPTables, istio.Standard(), meshed("", annotations...), map[string][]string{"TPROXY": {"--transparent"}}[mode]...)
			p.pod.Run(t, "sh", "-ec", "ip link add net1 type veth peer other1; ip addr add 10.5.0.1/24 dev net1; ip link set net1 up; ip link set other1 up; sysctl -qw net.ipv4.ip_forward=1")
			plan := newEnforcer(t, backend.IPTables, istio.Standard()).Verify(labtest.Within(t, time.Minute), meshed(p.pod.Path, annotations...)).Plan
			seen := map[string]int{}
			for _, c := range sendIn(t, p.pod.Path, plan) {
				switch c.Verdict {
				case traffic.Wrong:
					t.Error(c)
				case traffic.Unproven:
					seen[c.About]++
				case traffic.Right:
					seen[fmt.Sprintf("%s %s %d", c.Packet.In, c.Seen.Kind, c.Seen.Port)]++
				}
			}
			captured := map[string]string{"REDIRECT": "eth0 redirected 15006", "TPROXY": "eth0 tproxied 15006"}[mode]
			for _, want := range []string{"net1 delivered 18080", captured, "out by net1"} {
				if seen[want] == 0 {
					t.Errorf("no %s in %v", want, seen)
				}
			}
			if seen["net1 leaves 0"] > 0 {
				t.Errorf("sends through the pod: %v", seen)
			}
		})
	}
}

// In a pod without its proxy REDIRECT is seen all the same; of TPROXY it is said that it cannot be.
func TestTrafficWithoutTheProxy(t *testing.T) {
	for mode, want := range map[string]int{"REDIRECT": 0, "TPROXY": 1} {
		t.Run(mode, func(t *testing.T) {
			e := newEnforcer(t, backend.IPTables, istio.Standard())
			ns := nstest.New(t)
			ns.Peer(t, "10.9.0.0/24")
			plan := protect(t, e, meshed(ns.Path, "sidecar.istio.io/interceptionMode", mode)).Plan
			unproven := 0
			for _, c := range sendIn(t, ns.Path, plan) {
				switch {
				case c.Verdict == traffic.Wrong:
					t.Error(c)
				case c.Verdict == traffic.Unproven && strings.Contains(c.String(), "nobody listens on port 15006"):
					unproven = 1
				case c.Verdict == traffic.Unproven:
					t.Error(c)
				}
			}
			if unproven != want {
				t.Errorf("says that it cannot be proved: %d, want %d", unproven, want)
			}
		})
	}
}

// The ids of a pod with users of its own are those that its processes show.
func TestTrafficWithUsersOfItsOwn(t *testing.T) {
	nstest.RequireRoot(t)
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: mapping, GidMappings: mapping, Pdeathsig: syscall.SIGKILL}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	ended := func() {
		_ = input.Close()
		_ = holder.Wait()
	}
	t.Cleanup(ended)
	held, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	ns := &nstest.Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), held.Fd())}
	ns.Run(t, "ip", "link", "set", "lo", "up")
	ns.Peer(t, "10.9.0.0/24")
	plan := protect(t, newEnforcer(t, backend.IPTables, istio.Standard()), meshed(ns.Path)).Plan
	checks := sendIn(t, ns.Path, plan)
	right(t, checks)
	if places(checks)["4 tcp leaves 0"] == 0 || places(checks)["4 tcp redirected 15001"] == 0 {
		t.Errorf("seen: %v", places(checks))
	}
	ended()
	said := false
	for _, c := range sendIn(t, ns.Path, plan) {
		if c.Packet.Direction == rules.Outbound {
			said = said || strings.Contains(c.Note, "its ids are not known")
			if c.Verdict != traffic.Unproven {
				t.Error(c)
			}
		}
	}
	if !said {
		t.Error("nobody says that the ids are not known")
	}
}
