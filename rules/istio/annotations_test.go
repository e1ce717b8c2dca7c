// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
	declared "github.com/meshnetd/meshnetd/rules/mesh"
)

const (
	mode              = "sidecar.istio.io/interceptionMode"
	inboundPorts      = "traffic.sidecar.istio.io/includeInboundPorts"
	inboundExcluded   = "traffic.sidecar.istio.io/excludeInboundPorts"
	outboundRanges    = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	outboundExcluded  = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
	outboundPorts     = "traffic.sidecar.istio.io/includeOutboundPorts"
	outboundNotPorts  = "traffic.sidecar.istio.io/excludeOutboundPorts"
	excludeInterfaces = "traffic.sidecar.istio.io/excludeInterfaces"
	rerouteInterfaces = "istio.io/reroute-virtual-interfaces"
	kubevirt          = "traffic.sidecar.istio.io/kubevirtInterfaces"
)

// standard is what a pod gets that says nothing, changed by fn.
func standard(fn func(*istio.Intent)) istio.Intent {
	in := istio.Intent{OutboundPort: 15001, InboundPort: 15006, TunnelPort: 15008, DNSPort: 15053, UID: 1337, GID: 1337,
		InboundAll: true, InboundExclude: []uint16{15020, 15021, 15090}, OutboundAll: true, OutboundPortsExclude: []uint16{15020},
		WithoutIPv6: rules.IPv6Mesh, Loopback: netip.MustParsePrefix("127.0.0.1/32")}
	if fn != nil {
		fn(&in)
	}
	return in
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestAnnotations(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  rules.Pod
		want func(*istio.Intent)
	}{
		{"none", injected(), nil},
		{"mode REDIRECT", injected(mode, "REDIRECT"), nil},
		{"mode TPROXY", injected(mode, "TPROXY"), func(in *istio.Intent) { in.TProxy = true }},

		{"inbound *", injected(inboundPorts, "*"), nil},
		{"inbound empty", injected(inboundPorts, ""), func(in *istio.Intent) { in.InboundAll = false }},
		{"inbound blank", injected(inboundPorts, "  "), func(in *istio.Intent) { in.InboundAll = false }},
		{"inbound list", injected(inboundPorts, " 0, 80 ,65535 "), func(in *istio.Intent) {
			in.InboundAll, in.Inbound = false, []uint16{0, 80, 65535}
		}},
		{"inbound excluded empty", injected(inboundExcluded, ""), nil},
		{"inbound excluded", injected(inboundExcluded, "22, 15090,22"), func(in *istio.Intent) {
			in.InboundExclude = []uint16{22, 15090, 15020, 15021}
		}},

		{"outbound *", injected(outboundRanges, "*"), nil},
		{"outbound empty", injected(outboundRanges, ""), func(in *istio.Intent) { in.OutboundAll = false }},
		{"outbound list, host bits", injected(outboundRanges, "10.1.2.3/8,2001:db8::1/32"), func(in *istio.Intent) {
			in.OutboundAll, in.Outbound = false, prefixes("10.0.0.0/8", "2001:db8::/32")
		}},
		{"outbound excluded empty", injected(outboundExcluded, ""), nil},
		{"outbound excluded", injected(outboundExcluded, "169.254.169.254/32,fd00::/8"), func(in *istio.Intent) {
			in.OutboundExclude = prefixes("169.254.169.254/32", "fd00::/8")
		}},
		{"outbound everything excluded", injected(outboundExcluded, "0.0.0.0/0"), func(in *istio.Intent) {
			in.OutboundExclude = prefixes("0.0.0.0/0")
		}},
		{"outbound ports empty", injected(outboundPorts, ""), nil},
		{"outbound ports", injected(outboundPorts, "80, 443"), func(in *istio.Intent) { in.OutboundPorts = []uint16{80, 443} }},
		{"outbound ports excluded empty", injected(outboundNotPorts, ""), func(in *istio.Intent) { in.OutboundPortsExclude = nil }},
		{"outbound ports excluded", injected(outboundNotPorts, "3306,5432"), func(in *istio.Intent) {
			in.OutboundPortsExclude = []uint16{3306, 5432}
		}},

		{"interfaces excluded empty", injected(excludeInterfaces, ""), nil},
		{"interfaces excluded", injected(excludeInterfaces, "net1 , a_b.c-9,fifteenchars-xy"), func(in *istio.Intent) {
			in.ExcludeInterfaces = []string{"net1", "a_b.c-9", "fifteenchars-xy"}
		}},
		{"interfaces rerouted", injected(rerouteInterfaces, "k6t0,k6t1"), func(in *istio.Intent) { in.RerouteInterfaces = []string{"k6t0", "k6t1"} }},
		{"interfaces of the old name", injected(kubevirt, "k6t0"), func(in *istio.Intent) { in.RerouteInterfaces = []string{"k6t0"} }},
		{"new name over old", injected(rerouteInterfaces, "a0", kubevirt, "b0"), func(in *istio.Intent) { in.RerouteInterfaces = []string{"a0"} }},
		{"new name empty over old", injected(rerouteInterfaces, "", kubevirt, "b0"), nil},

		// Registered by Istio, read by nobody there: the injector has it in excludeInboundPorts.
		{"status port", injected("status.sidecar.istio.io/port", "x"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(standard(tt.want), intentOf(t, mesh, tt.pod), compare); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The node's configuration is what holds for a pod that says nothing.
func TestDefaults(t *testing.T) {
	d := istio.Defaults{OutboundPort: 1, InboundPort: 2, TunnelPort: 3, DNSPort: 4, UID: 5, GID: 6, DNSCapture: true, DualStack: true,
		InvalidDrop: true, Common: declared.Common{WithoutIPv6: rules.IPv6Block}, OwnerGroups: []uint32{7}, OwnerGroupsExclude: []uint32{8}, Loopback: netip.MustParsePrefix("127.0.0.0/8")}
	want := istio.Intent{OutboundPort: 1, InboundPort: 2, TunnelPort: 3, DNSPort: 4, UID: 5, GID: 6, DNSCapture: true, DualStack: true,
		InvalidDrop: true, WithoutIPv6: rules.IPv6Block, OwnerGroups: []uint32{7}, OwnerGroupsExclude: []uint32{8}, Loopback: netip.MustParsePrefix("127.0.0.0/8"),
		InboundAll: true, InboundExclude: []uint16{15020, 15021, 15090}, OutboundAll: true, OutboundPortsExclude: []uint16{15020}}
	if diff := cmp.Diff(want, intentOf(t, istio.New(d), injected()), compare); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAnnotationsRejected(t *testing.T) {
	const (
		port      = ", is not a port (0 to 65535; no ranges, no names)"
		cidr      = ", is not a CIDR such as 10.0.0.0/8 (no blanks around it)"
		iface     = ", is not an interface name (a letter, then letters, digits, _ . or -; 15 characters at most)"
		noInbound = `"*" would exclude every port: set traffic.sidecar.istio.io/includeInboundPorts to "" to capture nothing inbound`
		noOutPort = `"*" would exclude every port: set traffic.sidecar.istio.io/includeOutboundIPRanges to "" to capture nothing outbound`
		noOutAddr = `"*" would exclude every address: set traffic.sidecar.istio.io/includeOutboundIPRanges to "" to capture nothing outbound`
		noOutList = `"*" is no list: set traffic.sidecar.istio.io/includeOutboundIPRanges to "*" to capture every port`
	)
	for _, tt := range []struct{ key, value, want string }{
		{mode, "", "want REDIRECT, TPROXY or NONE"},
		{mode, "redirect", "want REDIRECT, TPROXY or NONE"},
		{mode, "TPROXY ", "want REDIRECT, TPROXY or NONE"},

		{inboundPorts, "80,", `item 2, ""` + port},
		{inboundPorts, "80,,81", `item 2, ""` + port},
		{inboundPorts, "80-90", `item 1, "80-90"` + port},
		{inboundPorts, "http", `item 1, "http"` + port},
		{inboundPorts, "80, 65536", `item 2, " 65536"` + port},
		{inboundPorts, "-1", `item 1, "-1"` + port},
		{inboundPorts, "80,*", `item 2, "*"` + port},
		{inboundExcluded, "*", noInbound},
		{inboundExcluded, " * ", noInbound},
		{inboundExcluded, "22,ssh", `item 2, "ssh"` + port},
		{outboundPorts, "*", noOutList},
		{outboundPorts, "443,https", `item 2, "https"` + port},
		{outboundNotPorts, "*", noOutPort},
		{outboundNotPorts, "1.5", `item 1, "1.5"` + port},

		{outboundRanges, "10.0.0.0", `item 1, "10.0.0.0"` + cidr},
		{outboundRanges, "10.0.0.0/8, 172.16.0.0/12", `item 2, " 172.16.0.0/12"` + cidr},
		{outboundRanges, "10.0.0.0/8,", `item 2, ""` + cidr},
		{outboundRanges, "10.0.0.0/33", `item 1, "10.0.0.0/33"` + cidr},
		{outboundRanges, "10.0.0.0/8,*", `item 2, "*"` + cidr},
		{outboundRanges, "fe80::1%eth0/64", `item 1, "fe80::1%eth0/64"` + cidr},
		{outboundRanges, " ", `item 1, " "` + cidr},
		{outboundRanges, " *", `item 1, " *"` + cidr},
		{outboundExcluded, "*", noOutAddr},
		{outboundExcluded, "example.com/32", `item 1, "example.com/32"` + cidr},

		{excludeInterfaces, "eth+", `item 1, "eth+"` + iface},
		{excludeInterfaces, "net1,", `item 2, ""` + iface},
		{excludeInterfaces, "0net", `item 1, "0net"` + iface},
		{excludeInterfaces, "eth0:1", `item 1, "eth0:1"` + iface},
		{excludeInterfaces, "eth0@if3", `item 1, "eth0@if3"` + iface},
		{excludeInterfaces, "sixteen-chars-xy", `item 1, "sixteen-chars-xy"` + iface},
		{excludeInterfaces, "a\n-j", `item 1, "a\n-j"` + iface},
		{excludeInterfaces, "é", `item 1, "é"` + iface},
		{rerouteInterfaces, "a b", `item 1, "a b"` + iface},
		{kubevirt, "*", `item 1, "*"` + iface},
	} {
		t.Run(tt.key+"="+tt.value, func(t *testing.T) {
			d := mesh.Decide(injected(tt.key, tt.value))
			want := (&rules.InputError{Place: "annotation " + tt.key, Value: tt.value, Problem: tt.want}).Error()
			if d.Action != rules.Reject || d.Reason != rules.ReasonBadInput || d.Detail != want {
				t.Errorf("got  %s, %s: %s\nwant %s, %s: %s", d.Action, d.Reason, d.Detail, rules.Reject, rules.ReasonBadInput, want)
			}
		})
	}
}

// A wildcard with blanks is none, as for Istio; the message must say what is wrong all the same.
func TestBlankWildcard(t *testing.T) {
	d := mesh.Decide(injected(inboundPorts, " *"))
	prefix := "annotation " + inboundPorts + `: " *": `
	if d.Action != rules.Reject || !strings.HasPrefix(d.Detail, prefix) || d.Detail == prefix {
		t.Errorf("%s: %q", d.Action, d.Detail)
	}
}

// Of several problems the first is told, in the order in which the annotations are documented.
func TestFirstProblemIsTold(t *testing.T) {
	rejected(t, injected(mode, "x", inboundPorts, "y", excludeInterfaces, "0"), "annotation "+mode, "x", "want REDIRECT, TPROXY or NONE")
}

// The old name of an annotation is not looked at where the new one is there.
func TestOldNameIgnored(t *testing.T) {
	intentOf(t, mesh, injected(rerouteInterfaces, "a0", kubevirt, "0 bad"))
}

// A list of ranges is for its own family only; the other family then captures nothing.
func TestRangesByFamily(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want4       []string
		want6       []string
	}{
		{"v4 only", "10.0.0.0/8", []string{"-d 10.0.0.0/8 -j ISTIO_REDIRECT"}, nil},
		{"v6 only", "fd00::/8", nil, []string{"-d fd00::/8 -j ISTIO_REDIRECT"}},
		{"everything of v4", "0.0.0.0/0", []string{"-j ISTIO_REDIRECT"}, nil},
		{"*", "*", []string{"-j ISTIO_REDIRECT"}, []string{"-j ISTIO_REDIRECT"}},
		{"nothing", "", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := planOf(t, mesh, withProxy(injected(outboundRanges, tt.value), "ISTIO_DUAL_STACK", "true"), first4)
			after := func(rs rules.Ruleset, loopback string) []string {
				lines := chain(rs, "nat", "ISTIO_OUTPUT")
				for i, line := range lines {
					if line == "-d "+loopback+" -j RETURN" {
						return lines[i+1:]
					}
				}
				t.Fatalf("no rule for loopback in %q", lines)
				return nil
			}
			if diff := cmp.Diff(tt.want4, after(plan.V4, "127.0.0.1/32"), compare); diff != "" {
				t.Errorf("IPv4 (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want6, after(plan.V6, "::1/128"), compare); diff != "" {
				t.Errorf("IPv6 (-want +got):\n%s", diff)
			}
		})
	}
}
