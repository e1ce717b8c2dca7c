// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

// The users, ports and addresses that every mesh is told of, as far as it can be.
const (
	exemptUser  = 5996
	exemptPort  = 3306
	servedPort  = 8080
	exemptRange = "172.17.0.0/16,fd17::/16"
)

var classScenes = []meshtest.Scene{
	{Family: rules.IPv4, Own: netip.MustParseAddr("10.9.0.1"), Loopback: netip.MustParseAddr("127.0.0.1"), Outside: netip.MustParseAddr("198.51.100.1"),
		Client: netip.MustParseAddr("10.9.0.2"), Passthrough: netip.MustParseAddr("127.0.0.6"), DNSAddr: netip.MustParseAddr("10.96.0.10")},
	{Family: rules.IPv6, Own: netip.MustParseAddr("fd09::1"), Loopback: netip.IPv6Loopback(), Outside: netip.MustParseAddr("2001:db8::1"),
		Client: netip.MustParseAddr("fd09::2"), Passthrough: netip.MustParseAddr("::6"), DNSAddr: netip.MustParseAddr("fd00:10:96::10")},
}

var exemptSource = map[rules.Family]netip.Addr{rules.IPv4: netip.MustParseAddr("172.17.0.9"), rules.IPv6: netip.MustParseAddr("fd17::9")}

// classed is a mesh with a pod that has something of everything, and whose proxy speaks IPv6.
type classed struct {
	name  string
	mesh  rules.Mesh
	proxy uint32
	probe uint16 // a port of the proxy's own that probes ask
	in    string // what becomes of what is captured inbound, and so on
	out   string
	// What the meshes differ in: the exempt user to outside, the exempt source to the app, the app and the proxy to
	// the pod's own address, the app's lookups elsewhere by UDP and by TCP, and at loopback.
	user, source, own, ownProxy, lookup, lookupTCP, lookupLoopback string
	annotations                                                    func(rules.Family) map[string]string
}

func classedMeshes() []classed {
	linkerds, istios := linkerd.Standard(), istio.Standard()
	linkerds.ProxyIPv6 = true
	istios.DualStack, istios.DNSCapture = true, true
	always := func(pairs map[string]string) func(rules.Family) map[string]string {
		return func(rules.Family) map[string]string { return pairs }
	}
	return []classed{
		{"istio", istio.New(istios), 1337, 15021, "redirected 15006", "redirected 15001",
			"redirected 15001", "redirected 15006", "delivered 8080", "redirected 15006", "redirected 15053", "redirected 15053", "redirected 15053",
			always(map[string]string{"sidecar.istio.io/status": "{}", "traffic.sidecar.istio.io/excludeOutboundPorts": "3306"})},
		{"consul", consul.New(consul.Standard()), 5995, 20200, "redirected 20000", "redirected 15001",
			"leaves 80", "redirected 20000", "redirected 15001", "delivered 8080", "leaves 53", "redirected 15001", "redirected 8600",
			func(f rules.Family) map[string]string { // whose lookups go to Consul in one family only
				dual := map[rules.Family]string{rules.IPv4: "false", rules.IPv6: "true"}[f]
				return map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
					"consul.hashicorp.com/dual-stack": dual, "consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,
					"ConsulDNSPort":8600,"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["3306"],"ExcludeUIDs":["5996"]}`}
			}},
		{"kuma", kuma.New(kuma.Standard()), 5678, 9001, "redirected 15006", "redirected 15001",
			"leaves 80", "delivered 8080", "delivered 8080", "redirected 15006", "redirected 15053", "leaves 53", "redirected 15053",
			always(map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": `{cniMode: true, redirect: {
				dns: {enabled: true, captureAll: true}, inbound: {excludePorts: [9001], excludePortsForIPs: ['` + exemptRange + `']},
				outbound: {excludePorts: [3306], excludePortsForUIDs: ['tcp:80:5996']}}}`})},
		{"linkerd", linkerd.New(linkerds), 2102, 4191, "redirected 4143", "redirected 4140",
			"redirected 4140", "delivered 8080", "delivered 8080", "delivered 8080", "leaves 53", "redirected 4140", "delivered 53",
			always(map[string]string{"linkerd.io/proxy-version": "x", "config.linkerd.io/skip-outbound-ports": "3306", "config.linkerd.io/skip-subnets": exemptRange})},
	}
}

func (m classed) classes() []meshtest.Class {
	sent := func(uid uint32, protocol string, to func(meshtest.Scene) netip.Addr, port uint16) func(meshtest.Scene) rules.Packet {
		return func(s meshtest.Scene) rules.Packet { return s.Sent(uid, protocol, to(s), port) }
	}
	received := func(protocol string, port uint16) func(meshtest.Scene) rules.Packet {
		return func(s meshtest.Scene) rules.Packet { return s.Received(protocol, port) }
	}
	outside := func(s meshtest.Scene) netip.Addr { return s.Outside }
	loopback := func(s meshtest.Scene) netip.Addr { return s.Loopback }
	own := func(s meshtest.Scene) netip.Addr { return s.Own }
	dns := func(s meshtest.Scene) netip.Addr { return s.DNSAddr }
	passedOn := func(s meshtest.Scene) rules.Packet {
		return meshtest.From(s.Sent(m.proxy, "tcp", s.Own, servedPort), s.Passthrough)
	}
	if m.name == "linkerd" || m.name == "consul" { // whose proxy has no address of its own
		passedOn = sent(m.proxy, "tcp", loopback, servedPort)
	}
	return []meshtest.Class{
		{Name: "app to outside", Packet: sent(app, "tcp", outside, 80), Want: m.out},
		{Name: "app to outside, excluded port", Packet: sent(app, "tcp", outside, exemptPort), Want: "leaves 3306"},
		{Name: "proxy to outside", Packet: sent(m.proxy, "tcp", outside, 80), Want: "leaves 80"},
		{Name: "extra user to outside", Packet: sent(exemptUser, "tcp", outside, 80), Want: m.user},
		{Name: "app to loopback", Packet: sent(app, "tcp", loopback, servedPort), Want: "delivered 8080"},
		{Name: "app to its own address", Packet: sent(app, "tcp", own, servedPort), Want: m.own},
		{Name: "proxy to its own address", Packet: sent(m.proxy, "tcp", own, servedPort), Want: m.ownProxy},
		{Name: "proxy passes on to the app", Packet: passedOn, Want: "delivered 8080"},
		{Name: "inbound to the app", Packet: received("tcp", servedPort), Want: m.in},
		{Name: "inbound to the probes' port", Packet: received("tcp", m.probe), Want: fmt.Sprintf("delivered %d", m.probe)},
		{Name: "inbound from an excluded source", Packet: func(s meshtest.Scene) rules.Packet {
			return meshtest.From(s.Received("tcp", servedPort), exemptSource[s.Family])
		}, Want: m.source},
		{Name: "lookup of the app", Packet: sent(app, "udp", dns, 53), Want: m.lookup},
		{Name: "lookup of the proxy", Packet: sent(m.proxy, "udp", dns, 53), Want: "leaves 53"},
		{Name: "lookup of the app by TCP", Packet: sent(app, "tcp", dns, 53), Want: m.lookupTCP},
		{Name: "lookup of the app at loopback", Packet: sent(app, "udp", loopback, 53), Want: m.lookupLoopback},
		{Name: "other UDP out", Packet: sent(app, "udp", outside, 443), Want: "leaves 443"},
		{Name: "other UDP in", Packet: received("udp", servedPort), Want: "delivered 8080"},
	}
}

// Each kind of packet, sent for real, comes to where the mesh's own rules bring it, whoever writes the rules; and the
// tracer says so beforehand.
func TestMeshClasses(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		firewall := labtest.Firewall(t, variant)
		for _, m := range classedMeshes() {
			t.Run(m.name, func(t *testing.T) {
				h := newHouse(t, m.probe)
				for _, s := range classScenes {
					plan := meshtest.Plan(t, m.mesh, rules.Pod{Namespace: "shop", Name: "cart", Labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"},
						Annotations: m.annotations(s.Family), IPs: []netip.Addr{classScenes[0].Own, classScenes[1].Own}})
					if _, err := firewall.Apply(t.Context(), h.inPod, plan); err != nil {
						t.Fatal(err)
					}
					h.classes(t, m, s, plan)
				}
			})
		}
	})
}

var classInterfaces = []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{classScenes[0].Own, classScenes[1].Own}}}

// house is a pod and its peer, with dummy listeners in both.
type house struct {
	pod           *nstest.Namespace
	inPod, inPeer *netns.Namespace
	hall          lobby
}

func newHouse(t *testing.T, probe uint16) *house {
	t.Helper()
	h := &house{pod: nstest.New(t)}
	peer := h.pod.Peer(t, "10.9.0.0/24", "fd09::/64")
	h.inPod, h.inPeer = opened(t, h.pod), opened(t, peer)
	h.hall.listen(t, h.inPod, "pod", 53, 80, 443, exemptPort, servedPort, probe, 4140, 4143, 8600, 15001, 15006, 15053, 20000)
	h.hall.listen(t, h.inPeer, "peer", 53, 80, 443, exemptPort, servedPort)
	for _, s := range classScenes {
		for _, addr := range []netip.Addr{s.Outside, s.DNSAddr, exemptSource[s.Family]} {
			peer.Run(t, "ip", "addr", "add", netip.PrefixFrom(addr, addr.BitLen()).String(), "dev", "lo", "nodad")
		}
	}
	return h
}

// classes sends each kind of packet into a pod that holds the plan.
func (h *house) classes(t *testing.T, m classed, s meshtest.Scene, plan rules.Plan) {
	t.Helper()
	for _, prefix := range plan.Loopback {
		h.pod.Run(t, "ip", "addr", "replace", prefix.String(), "dev", "lo", "nodad")
	}
	for _, c := range m.classes() {
		t.Run(s.Name()+"/"+c.Name, func(t *testing.T) {
			p := c.Packet(s)
			path, err := effect.Trace(plan, p, classInterfaces)
			if err != nil {
				t.Fatal(err)
			}
			if got := meshtest.End(path.End); got != c.Want {
				t.Errorf("the tracer: %s, want %s\n%s", got, c.Want, path)
			}
			from := h.inPod
			if p.Direction == rules.Inbound {
				from = h.inPeer
			}
			if got := h.hall.send(t.Context(), from, p); got != heardAt(c.Want) {
				t.Errorf("the kernel: %s, want %s", got, heardAt(c.Want))
			}
		})
	}
}
