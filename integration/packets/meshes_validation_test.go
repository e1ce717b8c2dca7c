// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

// What kuma-validation and linkerd-network-validator ask passes with each mesh's rules, and is refused without them,
// and where the mesh's own rules refuse it.
func TestMeshValidation(t *testing.T) {
	const (
		passes, fails = "validated", "failed"
		kumaUser      = 5678
		linkerdUser   = 2102
		nobody        = 65534
	)
	both := linkerd.Standard()
	both.ProxyIPv6 = true
	linkerds := func(defaults linkerd.Defaults, pairs ...string) (rules.Mesh, rules.Pod) {
		pod := rules.Pod{Labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"}, Annotations: map[string]string{"linkerd.io/proxy-version": "x"}}
		for i := 0; i+1 < len(pairs); i += 2 {
			pod.Annotations["config.linkerd.io/"+pairs[i]] = pairs[i+1]
		}
		return linkerd.New(defaults), pod
	}
	kumas := func(config string) (rules.Mesh, rules.Pod) {
		return kuma.New(kuma.Standard()), rules.Pod{Annotations: map[string]string{"kuma.io/sidecar-injected": "true",
			"traffic.kuma.io/transparent-proxy-config": "{cniMode: true, " + config + "}"}}
	}
	type asked struct {
		name string
		mesh rules.Mesh
		pod  rules.Pod
		uid  int
		six  bool
		want string
	}
	var all []asked
	add := func(mesh rules.Mesh, pod rules.Pod) func(name string, uid int, six bool, want string) {
		return func(name string, uid int, six bool, want string) {
			all = append(all, asked{name, mesh, pod, uid, six, want})
		}
	}
	add(linkerds(linkerd.Standard()))("linkerd", nobody, false, passes)
	add(linkerds(both))("linkerd over IPv6", nobody, true, passes)
	add(linkerds(linkerd.Standard()))("linkerd, IPv6 around the mesh", nobody, true, fails)
	add(linkerds(linkerd.Standard()))("linkerd, as the proxy", linkerdUser, false, fails)
	add(linkerds(linkerd.Standard(), "skip-outbound-ports", "20001"))("linkerd, its port skipped", nobody, false, fails)
	add(kumas("ipFamilyMode: dualstack"))("kuma", kumaUser, false, passes)
	add(kumas("ipFamilyMode: dualstack"))("kuma over IPv6", kumaUser, true, passes)
	add(kumas("redirect: {inbound: {enabled: false}}"))("kuma, gateway", kumaUser, false, passes) // the proxy's own calls are inbound all the same
	add(kumas("ipFamilyMode: ipv4"))("kuma, IPv6 around the mesh", kumaUser, true, fails)
	add(kumas("ipFamilyMode: ipv4"))("kuma, as the app", app, false, fails)
	add(kumas("redirect: {outbound: {enabled: false}}"))("kuma, nothing outbound", kumaUser, false, fails)
	validate := func(t *testing.T, pod *nstest.Namespace, mesh string, uid int, six bool, want string) {
		t.Helper()
		args := []string{"validate", "--mesh", mesh}
		if six {
			args = append(args, "--ipv6")
		}
		if want == fails {
			args = append(args, "--timeout", "300ms")
		}
		e := start(t, pod, uid, uid, args...).wait(t, "verdict", func(e lab.Event) bool { return e.Event == passes || e.Event == fails })
		if e.Event != want {
			t.Errorf("%s (%s), want %s", e.Event, e.Error, want)
		}
		if port := map[string]string{"kuma": "15006", "linkerd": "4140"}[mesh]; e.Event == passes && e.Listener != port {
			t.Errorf("the connection came to port %s, want %s", e.Listener, port)
		}
	}
	house := func(t *testing.T) *nstest.Namespace {
		t.Helper()
		pod := nstest.New(t)
		peer := pod.Peer(t, "10.9.0.0/24", "fd09::/64")
		for _, addr := range []string{"1.1.1.1/32", "fd00::1/128"} { // where nobody listens
			peer.Run(t, "ip", "addr", "add", addr, "dev", "lo", "nodad")
		}
		pod.Run(t, "ip", "addr", "add", "::6/128", "dev", "lo", "nodad")
		return pod
	}
	for name, uid := range map[string]int{"kuma": kumaUser, "linkerd": nobody} {
		for _, six := range []bool{false, true} {
			t.Run(name+" without rules", func(t *testing.T) { validate(t, house(t), name, uid, six, fails) })
		}
	}
	onBackends(t, func(t *testing.T, variant string) {
		firewall := labtest.Firewall(t, variant)
		for _, tt := range all {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				pod := house(t)
				tt.pod.IPs = []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}
				if _, err := firewall.Apply(t.Context(), opened(t, pod), meshtest.Plan(t, tt.mesh, tt.pod)); err != nil {
					t.Fatal(err)
				}
				validate(t, pod, tt.mesh.Name(), tt.uid, tt.six, tt.want)
			})
		}
	})
}
