// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

const (
	keyStatus   = "sidecar.istio.io/status"
	keyMode     = "sidecar.istio.io/interceptionMode"
	keyOutPorts = "traffic.sidecar.istio.io/excludeOutboundPorts"
	keyOutIPs   = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
	keyInPorts  = "traffic.sidecar.istio.io/includeInboundPorts"
	keyOptIn    = "istio-pod-network-controller/initialize"
)

// asking is a pod of namespace shop with annotations, given in pairs.
func asking(pairs ...string) rules.Pod {
	pod := rules.Pod{Namespace: "shop", Name: "cart", Annotations: map[string]string{}}
	for pair := range slices.Chunk(pairs, 2) {
		pod.Annotations[pair[0]] = pair[1]
	}
	return pod
}

func nodeWith(policies ...rules.AnnotationPolicy) rules.Node {
	return rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard())}, RuntimeHandlers: []string{""}, Annotations: policies}
}

// What a value may consist of.
func TestPolicyAllows(t *testing.T) {
	for _, tt := range []struct {
		allow     []string
		value     string
		forbidden string // the first item that is not allowed, "-" where all are
	}{
		{nil, "80", "80"},
		{nil, "", ""},
		{[]string{"80"}, "", ""},
		{[]string{""}, "", "-"},
		{[]string{""}, " ", "-"},
		{[]string{"", "80"}, "80,", "-"},
		{[]string{"80"}, "80,", ""},
		{[]string{"80"}, "80", "-"},
		{[]string{"80"}, " 80 ,080", "-"},
		{[]string{"80"}, "80,81", "81"},
		{[]string{"80"}, "8080", "8080"},
		{[]string{"9000-9100"}, "9000, 9050,9100", "-"},
		{[]string{"9000-9100"}, "8999", "8999"},
		{[]string{"9000-9100"}, "9101", "9101"},
		{[]string{"9000-9100"}, "9000-9100", "-"},
		{[]string{"9000-9100"}, "9000-9010", "9000-9010"},
		{[]string{"9100-9000"}, "9050", "9050"},
		{[]string{"0-65535"}, "0,65535", "-"},
		{[]string{"0-65535"}, "65536", "65536"},
		{[]string{"0-65535"}, "http", "http"},
		{[]string{"1-2", "5"}, "2,5,3,4", "3"},
		{[]string{"*"}, "*", "-"},
		{[]string{"*"}, "80", "80"},
		{[]string{"80"}, "*", "*"},
		{[]string{"TPROXY"}, "TPROXY", "-"},
		{[]string{"TPROXY"}, "tproxy", "tproxy"},
		{[]string{"10.0.0.0/8"}, "10.0.0.0/8, 10.1.0.0/16,10.255.255.255/32", "-"},
		{[]string{"10.0.0.0/8"}, "10.0.0.0/7", "10.0.0.0/7"},
		{[]string{"10.0.0.0/8"}, "11.0.0.0/8", "11.0.0.0/8"},
		{[]string{"10.0.0.0/8"}, "0.0.0.0/0", "0.0.0.0/0"},
		{[]string{"10.0.0.0/8"}, "10.0.0.1", "10.0.0.1"},
		{[]string{"10.0.0.0/8"}, "::ffff:10.0.0.0/104", "::ffff:10.0.0.0/104"},
		{[]string{"0.0.0.0/0"}, "fd00::/8", "fd00::/8"},
		{[]string{"fd00::/8", "0.0.0.0/0"}, "fd00:1::/32,1.2.3.4/31", "-"},
		{[]string{"fd00::/8"}, "fc00::/7", "fc00::/7"},
	} {
		node := nodeWith(rules.AnnotationPolicy{Annotation: "a", Allow: rules.Allow(tt.allow...)})
		d := node.Decide(asking(keyStatus, "{}", "a", tt.value))
		if tt.forbidden == "-" {
			if d.Action != rules.Enrol {
				t.Errorf("%q of %q: %s: %s", tt.value, tt.allow, d.Action, d.Detail)
			}
			continue
		}
		want := `annotation a: "` + tt.forbidden + `" is not allowed`
		if d.Action != rules.Reject || d.Reason != rules.ReasonForbidden || !strings.HasPrefix(d.Detail, want) {
			t.Errorf("%q of %q: %s, %s: %s\nwant %s", tt.value, tt.allow, d.Action, d.Reason, d.Detail, want)
		}
	}
}

func TestParsePortRange(t *testing.T) {
	for text, want := range map[string]rules.PortRange{"80": {First: 80, Last: 80}, "0-65535": {First: 0, Last: 65535}, "7-7": {First: 7, Last: 7}} {
		if got, ok := rules.ParsePortRange(text); !ok || got != want {
			t.Errorf("%q: got %+v, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "-", "1-", "-1", "2-1", "1-65536", "65536", "1-2-3", "a", "1 - 2", "+1"} {
		if got, ok := rules.ParsePortRange(text); ok {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// Which policy counts, and for whom.
func TestPolicyMatches(t *testing.T) {
	nothing := func(annotation string, namespaces ...string) rules.AnnotationPolicy {
		return rules.AnnotationPolicy{Annotation: annotation, Namespaces: namespaces, Otherwise: rules.Refuse}
	}
	for _, tt := range []struct {
		name      string
		policies  []rules.AnnotationPolicy
		forbidden bool
	}{
		{"none", nil, false},
		{"the key", []rules.AnnotationPolicy{nothing(keyOutPorts)}, true},
		{"another key", []rules.AnnotationPolicy{nothing(keyOutIPs)}, false},
		{"a pattern", []rules.AnnotationPolicy{nothing("traffic.sidecar.istio.io/exclude*")}, true},
		{"a pattern does not cross the slash", []rules.AnnotationPolicy{nothing("traffic.*Ports")}, false},
		{"a broken pattern", []rules.AnnotationPolicy{nothing("[")}, false},
		{"its namespace", []rules.AnnotationPolicy{nothing(keyOutPorts, "a", "shop")}, true},
		{"a pattern of its namespace", []rules.AnnotationPolicy{nothing(keyOutPorts, "s?op")}, true},
		{"another namespace", []rules.AnnotationPolicy{nothing(keyOutPorts, "sho", "shop-*")}, false},
		{"the first counts, refusing", []rules.AnnotationPolicy{nothing(keyOutPorts), {Annotation: keyOutPorts, Otherwise: rules.Permit}}, true},
		{"the first counts, allowing", []rules.AnnotationPolicy{{Annotation: keyOutPorts, Otherwise: rules.Permit}, nothing(keyOutPorts)}, false},
		{"the first counts, listing", []rules.AnnotationPolicy{{Annotation: "*/*Ports", Allow: rules.Allow("25")}, nothing(keyOutPorts)}, false},
		{"a first one of another namespace", []rules.AnnotationPolicy{{Annotation: keyOutPorts, Namespaces: []string{"x"}, Otherwise: rules.Permit}, nothing("*/*Ports")}, true},
	} {
		d := nodeWith(tt.policies...).Decide(asking(keyStatus, "{}", keyOutPorts, "25"))
		if forbidden := d.Reason == rules.ReasonForbidden; forbidden != tt.forbidden || (d.Action == rules.Reject) != forbidden {
			t.Errorf("%s: %s, %s: %s", tt.name, d.Action, d.Reason, d.Detail)
		}
	}
}

func TestPolicyOutcomes(t *testing.T) {
	policy := func(annotation string, otherwise rules.Otherwise, allow ...string) rules.AnnotationPolicy {
		return rules.AnnotationPolicy{Annotation: annotation, Allow: rules.Allow(allow...), Otherwise: otherwise}
	}
	const byTheNode = " is not allowed in namespace shop by the node's configuration, which allows "
	noPorts := `annotation ` + keyOutPorts + `: "25"` + byTheNode + `nothing`
	for _, tt := range []struct {
		name     string
		policies []rules.AnnotationPolicy
		pod      rules.Pod
		action   rules.Action
		reason   rules.Reason
		detail   string // of a pod that is rejected
		as       []string
		notes    []string
	}{
		{name: "refused", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Refuse, "15020", "9000-9100")},
			pod: asking(keyStatus, "{}", keyOutPorts, "15020,25"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyOutPorts + `: "25"` + byTheNode + `"15020", "9000-9100"`},
		{name: "no word for it is a refusal", policies: []rules.AnnotationPolicy{policy(keyOutPorts, "")},
			pod: asking(keyStatus, "{}", keyOutPorts, "25"), action: rules.Reject, reason: rules.ReasonForbidden, detail: noPorts},
		{name: "every refusal is named", policies: []rules.AnnotationPolicy{policy("*/*", rules.Refuse, "{}")},
			pod: asking(keyStatus, "{}", keyOutPorts, "25", keyMode, "NONE"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyMode + `: "NONE"` + byTheNode + `"{}"; annotation ` + keyOutPorts + `: "25"` + byTheNode + `"{}"`},
		{name: "ignored", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Ignore)},
			pod: asking(keyStatus, "{}", keyOutPorts, "25", keyMode, "TPROXY"), action: rules.Enrol, reason: rules.ReasonInjected,
			as: []string{keyStatus, "{}", keyMode, "TPROXY"}, notes: []string{noPorts + "; it is ignored"}},
		{name: "one ignored, one refused", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Ignore), policy(keyMode, rules.Refuse)},
			pod: asking(keyStatus, "{}", keyOutPorts, "25", keyMode, "TPROXY"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyMode + `: "TPROXY"` + byTheNode + `nothing`},
		{name: "allowed all the same", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Permit, "1")},
			pod: asking(keyStatus, "{}", keyOutPorts, "25"), action: rules.Enrol, reason: rules.ReasonInjected,
			as: []string{keyStatus, "{}", keyOutPorts, "25"}},

		{name: "outside the mesh", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Refuse)},
			pod: asking(keyOutPorts, "25"), action: rules.Skip, reason: rules.ReasonNotInjected},
		{name: "outside the mesh, ignored", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Ignore)},
			pod: asking(keyOutPorts, "25"), action: rules.Skip, reason: rules.ReasonNotInjected},
		{name: "asks to be left out: refused", policies: []rules.AnnotationPolicy{policy(keyMode, rules.Refuse, "REDIRECT", "TPROXY")},
			pod: asking(keyStatus, "{}", keyMode, "NONE"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyMode + `: "NONE"` + byTheNode + `"REDIRECT", "TPROXY"`},
		{name: "asks to be left out: ignored", policies: []rules.AnnotationPolicy{policy(keyMode, rules.Ignore, "REDIRECT", "TPROXY")},
			pod: asking(keyStatus, "{}", keyMode, "NONE"), action: rules.Enrol, reason: rules.ReasonInjected,
			as: []string{keyStatus, "{}"}, notes: []string{`annotation ` + keyMode + `: "NONE"` + byTheNode + `"REDIRECT", "TPROXY"; it is ignored`}},
		{name: "asks to be left out: not asked about", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Refuse)},
			pod: asking(keyStatus, "{}", keyMode, "NONE", keyOutPorts, "25"), action: rules.Skip, reason: rules.ReasonInterceptionNone},
		{name: "asks to be let in: refused", policies: []rules.AnnotationPolicy{policy(keyOptIn, rules.Refuse)},
			pod: asking(keyOptIn, "true"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyOptIn + `: "true"` + byTheNode + `nothing`},
		{name: "ignoring takes no pod out of the mesh", policies: []rules.AnnotationPolicy{policy("sidecar.istio.io/*", rules.Ignore, "REDIRECT")},
			pod: asking(keyStatus, "true"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyStatus + `: "true"` + byTheNode + `"REDIRECT"; it is not ignored, because the pod would not belong to the mesh without it`},

		{name: "malformed and allowed", policies: []rules.AnnotationPolicy{policy(keyInPorts, rules.Refuse, "http")},
			pod: asking(keyStatus, "{}", keyInPorts, "http"), action: rules.Reject, reason: rules.ReasonBadInput,
			detail: `annotation ` + keyInPorts + `: "http": item 1, "http", is not a port (0 to 65535; no ranges, no names)`},
		{name: "malformed and refused", policies: []rules.AnnotationPolicy{policy(keyInPorts, rules.Refuse)},
			pod: asking(keyStatus, "{}", keyInPorts, "http"), action: rules.Reject, reason: rules.ReasonForbidden,
			detail: `annotation ` + keyInPorts + `: "http"` + byTheNode + `nothing`},
		{name: "malformed and ignored", policies: []rules.AnnotationPolicy{policy(keyInPorts, rules.Ignore)},
			pod: asking(keyStatus, "{}", keyInPorts, "http"), action: rules.Enrol, reason: rules.ReasonInjected,
			as: []string{keyStatus, "{}"}, notes: []string{`annotation ` + keyInPorts + `: "http"` + byTheNode + `nothing; it is ignored`}},
		{name: "one ignored, another malformed", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Ignore)},
			pod: asking(keyStatus, "{}", keyOutPorts, "25", keyMode, "X"), action: rules.Reject, reason: rules.ReasonBadInput,
			detail: `annotation ` + keyMode + `: "X": want REDIRECT, TPROXY or NONE`},
		{name: "a handler that cannot be", policies: []rules.AnnotationPolicy{policy(keyOutPorts, rules.Ignore)},
			pod:    func() rules.Pod { p := asking(keyStatus, "{}", keyOutPorts, "25"); p.RuntimeHandler = "kata"; return p }(),
			action: rules.Reject, reason: rules.ReasonRuntimeHandler,
			detail: `runtime handler "kata" is not one of runtime_handlers in the node's configuration: what its sandboxes send may not pass the node's kernel, where the rules are`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := maps.Clone(tt.pod.Annotations)
			d := nodeWith(tt.policies...).Decide(tt.pod)
			if d.Action != tt.action || d.Reason != tt.reason || (d.Action == rules.Reject && d.Detail != tt.detail) || d.Mesh != "istio" {
				t.Errorf("got  %s, %s: %s\nwant %s, %s: %s", d.Action, d.Reason, d.Detail, tt.action, tt.reason, tt.detail)
			}
			if diff := cmp.Diff(before, tt.pod.Annotations); diff != "" {
				t.Errorf("the pod was changed (-before +after):\n%s", diff)
			}
			if (d.Planner != nil) != (tt.action == rules.Enrol) {
				t.Fatalf("planner %t", d.Planner != nil)
			}
			if tt.action != rules.Enrol {
				return
			}
			want := nodeWith().Decide(asking(tt.as...))
			if got := d; !cmp.Equal(want.Intent, got.Intent, compare, cmp.AllowUnexported(istio.Intent{})) || got.Proxy.UID != want.Proxy.UID {
				t.Errorf("the intent is not that of a pod that has %q:\n%s", tt.as, cmp.Diff(want.Intent, got.Intent, compare, cmp.AllowUnexported(istio.Intent{})))
			}
			ips := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
			have, err := d.Planner(rules.Network{Addresses: ips})
			if err != nil {
				t.Fatal(err)
			}
			without, err := want.Planner(rules.Network{Addresses: ips})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(slices.Concat(tt.notes, without.Notes), have.Notes); diff != "" || have.Key() != without.Key() || len(without.Notes) == 0 {
				t.Errorf("the key is the same: %t; notes (-want +got):\n%s", have.Key() == without.Key(), diff)
			}
			if _, err := d.Planner(rules.Network{Addresses: []netip.Addr{}}); err == nil {
				t.Error("a pod without addresses got a plan")
			}
		})
	}
}
