// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// A list of groups that is understood is understood the same when it is printed; only "*" is everybody.
func FuzzOwnerGroups(f *testing.F) {
	for _, seed := range []string{"*", " * ", "", ",", "1,2", " 7 , 007,", "4294967294", "4294967295", "-1", "root", "1;2", "*,1", "+1", "0x1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		groups, err := istio.ParseOwnerGroups(value)
		if err != nil {
			return
		}
		if (groups == nil) != (strings.TrimSpace(value) == "*") {
			t.Errorf("%q is read as %v", value, groups)
		}
		if groups == nil {
			return
		}
		var words []string
		for _, id := range groups {
			words = append(words, fmt.Sprint(id))
		}
		if again, err := istio.ParseOwnerGroups(strings.Join(words, ",")); err != nil || !slices.Equal(again, groups) {
			t.Errorf("%q is read as %v, and that as %v, %v", value, groups, again, err)
		}
		if slices.Contains(groups, 4294967295) {
			t.Errorf("%q has an id that iptables refuses", value)
		}
	})
}

// What is left alone of loopback is never more than loopback.
func FuzzLoopback(f *testing.F) {
	for _, seed := range []string{"127.0.0.1/32", "127.0.0.0/8", "127.1.2.3/16", "127.0.0.0/7", "::1/128", "::ffff:127.0.0.1/128", "10.0.0.0/8", "127.0.0.1", ""} {
		f.Add(seed)
	}
	all := netip.MustParsePrefix("127.0.0.0/8")
	f.Fuzz(func(t *testing.T, value string) {
		p, err := istio.ParseLoopback(value)
		if err == nil && (!all.Contains(p.Addr()) || p.Bits() < all.Bits() || p != p.Masked()) {
			t.Errorf("%q is read as %s", value, p)
		}
	})
}

// The part of the proxy's container that the injector kept is JSON of the pod's author.
func FuzzOverrides(f *testing.F) {
	for _, seed := range []string{"", "{}", "null", "[]", "{", `{"containers":null}`, `{"containers":[{}]}`,
		`{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":7,"runAsGroup":8}}]}`,
		`{"initContainers":[{"name":"istio-proxy","securityContext":{"runAsUser":4294967295}}]}`,
		`{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":-1}}]}`,
		`{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":"7"}}]}`,
		`{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":0,"runAsGroup":1e3}}]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		pod := injected(overrides, value)
		checkDecision(t, mesh, pod)
		d := mesh.Decide(pod)
		if value != "" && !json.Valid([]byte(value)) && (d.Action != rules.Reject || !strings.Contains(d.Detail, overrides)) {
			t.Errorf("%q is not JSON: %s, %s", value, d.Action, d.Detail)
		}
	})
}

// The arguments of istio-validation, a line each: whatever they are, the proxy's two listeners stay apart, and
// its own traffic is that of somebody.
func FuzzArguments(f *testing.F) {
	for _, seed := range []string{"", "istio-iptables\n-p\n15001\n-z\n15006\n-u\n1337\n-m\nREDIRECT\n-i\n*\n-x\n\n-b\n*\n-d\n15090,15021,15020\n--log_output_level=default:info\n--run-validation\n--skip-rule-apply",
		"/usr/local/bin/pilot-agent\nistio-iptables\n--envoy-port=1\n--inbound-capture-port\n2", "pilot-agent\nproxy\n-p\n1", "-p15001\n-z=15006\n-e\n15008",
		"--proxy-uid\n0", "-u\n4294967295", "-u\n1,2", "-p\n65536", "-p", "-z\n15001", "--envoy-port=", "-g\n\n-g\n7"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		pod := withValidation(injected(), strings.Split(lines, "\n")...)
		checkDecision(t, mesh, pod)
		d := mesh.Decide(pod)
		if d.Action != rules.Enrol {
			return
		}
		in := d.Intent.(istio.Intent)
		if in.OutboundPort == in.InboundPort || in.OutboundPort == 0 || in.InboundPort == 0 || in.TunnelPort == 0 || in.UID == 0 || in.GID == 0 {
			t.Errorf("%q: %+v", lines, in)
		}
	})
}
