// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Where the first packets of the usual connections end, with one plan for the names of the places.
func TestPlace(t *testing.T) {
	pod := withProxy(injected(outboundNotPorts, "25"), "ISTIO_META_DNS_CAPTURE", "true", "INVALID_DROP", "true")
	d := istio.Standard()
	d.WithoutIPv6 = rules.IPv6Block
	m := istio.New(d)
	plan, in := planOf(t, m, pod, first4), intentOf(t, m, pod)
	interfaces := []rules.Interface{{Name: "eth0", Addresses: first4}}
	for _, tt := range []struct {
		name     string
		from, to string
		change   func(*rules.Packet)
		want     istio.Place
	}{
		{"a service", "10.244.1.7:1", "10.96.0.1:80", nil, istio.ProxyOutbound},
		{"an excluded port", "10.244.1.7:1", "10.96.0.1:25", nil, istio.NotCaptured},
		{"a name", "10.244.1.7:1", "10.96.0.10:53", func(p *rules.Packet) { p.Protocol = rules.UDP }, istio.ProxyDNS},
		{"itself", "10.244.1.7:1", "10.244.1.7:8080", nil, istio.App},
		{"a listener of the proxy", "127.0.0.1:1", "127.0.0.1:15001", nil, istio.ProxyOutbound},
		{"the proxy calls its pod", "10.244.1.7:1", "10.244.1.7:8080", func(p *rules.Packet) { p.UID = 1337 }, istio.ProxyInbound},
		{"from outside", "10.9.9.9:1", "10.244.1.7:8080", arrives, istio.ProxyInbound},
		{"a probe", "10.9.9.9:1", "10.244.1.7:15021", arrives, istio.App},
		{"out of its window", "10.9.9.9:1", "10.244.1.7:8080", func(p *rules.Packet) { arrives(p); p.State = rules.StateInvalid }, istio.Dropped},
		{"IPv6, blocked", "[fd00:10:244::7]:1", "[2001:db8::1]:80", nil, istio.Reset},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := rules.Packet{Protocol: rules.TCP, Source: netip.MustParseAddrPort(tt.from), Destination: netip.MustParseAddrPort(tt.to),
				Out: "eth0", Socket: true, UID: 1000, GID: 1000}
			if tt.change != nil {
				tt.change(&p)
			}
			path, err := effect.Trace(plan, p, interfaces)
			if err != nil {
				t.Fatal(err)
			}
			if got := in.Place(path.End); got != tt.want {
				t.Errorf("ends at %q, want %q\n%s", got, tt.want, path)
			}
		})
	}
}

func arrives(p *rules.Packet) {
	p.Direction, p.In, p.Socket, p.UID, p.GID = rules.Inbound, "eth0", false, 0, 0
}
