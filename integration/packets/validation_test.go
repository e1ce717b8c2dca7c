// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What istio-validation asks passes for every kind of plan, and is refused where Istio's own rules refuse it.
func TestIstioValidation(t *testing.T) {
	const passes, fails = "validated", "failed"
	wide := istio.Standard()
	wide.Loopback = netip.MustParsePrefix("127.0.0.1/8")
	dual := map[string]string{"ISTIO_DUAL_STACK": "true"}
	for _, tt := range []struct {
		name        string
		defaults    istio.Defaults
		annotations []string
		env         map[string]string
		uid         int
		args        []string
		want        string
	}{
		{"default", istio.Standard(), nil, nil, proxy, nil, passes},
		{"TPROXY", istio.Standard(), []string{"sidecar.istio.io/interceptionMode", "TPROXY"}, nil, proxy, nil, passes},
		{"DNS", istio.Standard(), nil, map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}, proxy, nil, passes},
		{"nothing inbound", istio.Standard(), []string{"traffic.sidecar.istio.io/includeInboundPorts", ""}, nil, proxy, nil, passes},
		{"dual stack, IPv4", istio.Standard(), nil, dual, proxy, nil, passes},
		{"dual stack, IPv6", istio.Standard(), nil, dual, proxy, []string{"--ipv6"}, passes},
		{"as the app", istio.Standard(), nil, nil, app, nil, fails},
		{"IPv6 around the mesh", istio.Standard(), nil, nil, proxy, []string{"--ipv6"}, fails},
		{"all of 127.0.0.0/8 left alone", wide, nil, nil, proxy, nil, fails},
		{"the port excluded", istio.Standard(), []string{"traffic.sidecar.istio.io/excludeOutboundPorts", "15002"}, nil, proxy, nil, fails},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			onBackends(t, func(t *testing.T, variant string) {
				t.Parallel()
				ns := nstest.New(t)
				ns.Peer(t, "10.9.0.0/24", "fd09::/64")
				pod := meshed(ns.Path, tt.annotations...)
				pod.Containers = []rules.Container{{Name: "istio-proxy", Env: tt.env}}
				protect(t, newEnforcer(t, variant, tt.defaults), pod)
				args := append([]string{"validate"}, tt.args...)
				if tt.want == fails {
					args = append(args, "--timeout", "1500ms") // it dials each second
				}
				e := start(t, ns, tt.uid, tt.uid, args...).
					wait(t, "verdict", func(e lab.Event) bool { return e.Event == passes || e.Event == fails })
				if e.Event != tt.want {
					t.Errorf("%s (%s), want %s", e.Event, e.Error, tt.want)
				}
				if e.Event == passes && e.Listener != "15006" {
					t.Errorf("the connection came to port %s, want the inbound one", e.Listener)
				}
			})
		})
	}
}
