// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// cable joins the pod with the peer. Both ends have the same name.
type cable struct {
	name      string
	addresses []string // of the pod's end
}

// cables are all interfaces that any plan names. One has two addresses of each family, one none of IPv4.
var cables = []cable{
	{"eth0", []string{"10.244.1.7", "10.244.1.8", "fd00:10:244::7", "fd00:10:244::8"}},
	{"net1", []string{"192.168.1.7", "fd00:c0:1::7"}},
	{"net2", nil},
	{"k6t0", []string{"192.168.3.7", "192.168.3.8", "fd00:c0:3::7"}},
	{"k6t-eth0", []string{"192.168.4.7", "fd00:c0:4::7"}},
	{"k6t-net1", []string{"192.168.5.7", "fd00:c0:5::7"}},
	{"a0", []string{"192.168.6.7", "fd00:c0:6::7"}},
}

// The routers of either side, which nobody has to ask for their hardware address.
const (
	peer4, peer6 = "169.254.0.1", "fe80::1"
	pod4, pod6   = "169.254.0.2", "fe80::2"
)

// The differentiated services code points of packets that shall be of no connection: wherever they are seen,
// and only where they come in.
const (
	untracked   = 5
	untrackedIn = 6
)

// table keeps connections tracked whatever the plan, and lets those packets go untracked that ask for it.
const table = `table inet differential {
	chain letgo {
		ip dscp 5 notrack
		ip6 dscp 5 notrack
	}
	chain output { type filter hook output priority -310; jump letgo; }
	chain prerouting {
		type filter hook prerouting priority -310
		jump letgo
		ip dscp 6 notrack
		ip6 dscp 6 notrack
	}
	chain input { type filter hook input priority 300; ct state new; }
}`

// world is a pod, and a peer that has every other address there is: it takes what leaves the pod, wherever
// it is sent to, and sends to the pod from any address.
type world struct {
	pod, peer  *stack
	path       string // of the pod's namespace
	interfaces []rules.Interface
	index      map[string]int // of the peer's interfaces
	plug       int            // a socket of the peer that puts packets on cables; to close one takes the kernel long
}

func newWorld(t testing.TB) *world {
	t.Helper()
	nstest.Require(t, "nft")
	requireTaps(t)
	pod, peer := nstest.New(t), nstest.New(t)
	w := &world{pod: newStack(t, pod.Path), peer: newStack(t, peer.Path), path: pod.Path, index: map[string]int{}}
	both := map[string]string{"ipv4/ip_local_port_range": "62000 64000", // apart from those that packets are given
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv6/conf/default/accept_ra": "0",
		"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0"}
	w.pod.set(t, both)
	w.pod.set(t, map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
	w.peer.set(t, both)
	w.peer.set(t, map[string]string{"ipv4/conf/all/accept_local": "1", "ipv4/conf/default/accept_local": "1"})
	podIP, peerIP, policy := cabling(peer.Path)
	pod.RunInput(t, podIP+digging(), "ip", "-batch", "-")
	peer.RunInput(t, peerIP, "ip", "-batch", "-")
	for _, family := range []string{"-4", "-6"} {
		peer.RunInput(t, policy, "ip", family, "-batch", "-")
	}
	pod.RunInput(t, table, "nft", "-f", "-")
	if err := w.pod.do(w.readInterfaces); err != nil {
		t.Fatal(err)
	}
	err := w.peer.do(func() (err error) {
		if err := w.readIndexes(); err != nil {
			return err
		}
		w.plug, err = open(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(w.plug) })
	return w
}

// cabling returns what ip is to do in the pod, then in the peer, and there for each family. What has a mark
// goes by the cable of that number, and any address is the peer's own that the pod does not have.
func cabling(peerPath string) (pod, peer, policy string) {
	var a, b strings.Builder
	policy = "rule add pref 33000 lookup 200\nroute add local default dev lo table 200\n"
	for i, c := range cables {
		n := i + 1
		mine, theirs := hardwareText(n), fmt.Sprintf("02:00:00:00:01:%02x", n)
		fmt.Fprintf(&a, "link add %s address %s type veth peer name %s address %s netns %s\n", c.name, mine, c.name, theirs, peerPath)
		fmt.Fprintf(&a, "link set %s addrgenmode none up\n", c.name)
		fmt.Fprintf(&b, "link set %s addrgenmode none up\n", c.name)
		for _, addr := range append(c.addresses, fmt.Sprintf("fe80::%x:7", n)) {
			bits := netip.MustParseAddr(addr).BitLen()
			fmt.Fprintf(&a, "addr add %s/%d dev %s nodad\n", addr, bits, c.name)
			if !strings.HasPrefix(addr, "fe80") {
				fmt.Fprintf(&b, "route add %s/%d via %s dev %s onlink\n", addr, bits, either(addr, pod4, pod6), c.name)
			}
		}
		for _, router := range []string{peer4, peer6} {
			fmt.Fprintf(&a, "neigh replace %s lladdr %s dev %s nud permanent\n", router, theirs, c.name)
		}
		for _, router := range []string{pod4, pod6} {
			fmt.Fprintf(&b, "neigh replace %s lladdr %s dev %s nud permanent\n", router, mine, c.name)
			any := either(router, "0.0.0.0/0", "::/0")
			fmt.Fprintf(&b, "route add %s via %s dev %s onlink table %d\n", any, router, c.name, n)
		}
		policy += fmt.Sprintf("rule add pref 100 fwmark %d lookup %d\n", n, n)
		fmt.Fprintf(&b, "neigh replace fe80::%x:7 lladdr %s dev %s nud permanent\n", n, mine, c.name)
	}
	fmt.Fprintf(&a, "route add default via %s dev eth0 onlink\nroute add default via %s dev eth0 onlink\n", peer4, peer6)
	return a.String(), b.String(), policy
}

// hardware is the hardware address of the pod's end of a cable.
func hardware(n int) [8]byte { return [8]byte{0x02, 5: byte(n)} }

func hardwareText(n int) string {
	address := hardware(n)
	return net.HardwareAddr(address[:6]).String()
}

func either(addr, four, six string) string {
	if strings.Contains(addr, ":") {
		return six
	}
	return four
}

// readInterfaces asks the kernel, whose order of addresses counts.
func (w *world) readInterfaces() error {
	for _, c := range cables {
		link, err := plugged(c.name)
		if err != nil {
			return fmt.Errorf("pod: %w", err)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("addresses of %s: %w", c.name, err)
		}
		i := rules.Interface{Name: c.name}
		for _, a := range addrs {
			addr, _ := netip.AddrFromSlice(a.IP)
			i.Addresses = append(i.Addresses, addr.Unmap())
		}
		w.interfaces = append(w.interfaces, i)
	}
	return nil
}

func (w *world) readIndexes() error {
	for _, c := range cables {
		link, err := plugged(c.name)
		if err != nil {
			return fmt.Errorf("peer: %w", err)
		}
		w.index[c.name] = link.Attrs().Index
	}
	return nil
}

// plugged waits until the kernel has noticed that the other end of a cable is there: it sends nothing before.
func plugged(name string) (netlink.Link, error) {
	for deadline := time.Now().Add(patience * time.Millisecond); ; runtime.Gosched() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return link, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("interface %s stays %s", name, link.Attrs().OperState)
		}
	}
}

// number is that of the cable, which is the mark and the table in the peer.
func number(name string) (int, bool) {
	for i, c := range cables {
		if c.name == name {
			return i + 1, true
		}
	}
	return 0, false
}

// leaveBy makes an interface the way out of the pod, for either family.
func (w *world) leaveBy(name string) error {
	return w.pod.do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("pod's interface %s: %w", name, err)
		}
		for _, router := range []string{peer4, peer6} {
			_, any, _ := net.ParseCIDR(either(router, "0.0.0.0/0", "::/0"))
			route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: any, Gw: net.ParseIP(router), Flags: int(netlink.FLAG_ONLINK)}
			if err := netlink.RouteReplace(&route); err != nil {
				return fmt.Errorf("way out by %s: %w", name, err)
			}
		}
		return nil
	})
}

// has reports whether an address is one that only the pod has, those of loopback among them.
func (w *world) has(addr netip.Addr) bool {
	return inLoopback(addr) ||
		slices.ContainsFunc(w.interfaces, func(i rules.Interface) bool { return slices.Contains(i.Addresses, addr) })
}

// inLoopback reports whether an address is one that lo has, or that a plan gives it.
func inLoopback(addr netip.Addr) bool {
	return addr.IsLoopback() || netip.MustParsePrefix("::/120").Contains(addr)
}
