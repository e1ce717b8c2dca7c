// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// With ipv6 = "block", a client that has both families and prefers IPv6 is told at once that it has to take IPv4,
// and so comes to the proxy.
func TestClientsFallBackToIPv4(t *testing.T) {
	// A container of the test speaks as the proxy, which does not speak IPv6 as the node has it.
	config := []string{`ipv6 = "block"`, `proxy_identity = "off"`, "[[policy]]\nmay_loosen = true"}
	forEachScene(t, nil, config, func(t *testing.T, s *scene) {
		names := labtest.Address(s.outside, 0, 53)
		// byName calls a name that has both families, as a user. It would wait for long before it tries IPv4 too.
		byName := func(pod *lab.Pod, uid int, name string, port uint16) lab.Event {
			t.Helper()
			e := s.act(t, pod, uid, "talk", "tcp", fmt.Sprintf("%s:%d", name, port), "--resolver", names, "--fallback-delay", "8s")
			if e.Event != "talked" {
				t.Fatalf("%+v", e)
			}
			return e
		}
		if e := byName(s.web, proxy, outsideName, serverPort); netip.MustParseAddrPort(e.Remote).Addr().String() != publicIPv6[1] {
			t.Fatalf("this client does not prefer IPv6: it took %s", e.Remote)
		}
		quickly := func(e lab.Event, addr string) {
			t.Helper()
			if took := time.Duration(e.At - e.Started); e.Remote != addr || took > 4*time.Second {
				t.Errorf("after %s, connected to %s, want %s at once", took, e.Remote, addr)
			}
		}
		out := byName(s.web, app, outsideName, serverPort)
		quickly(out, labtest.Address(s.outside, 0, serverPort))
		s.carried(t, "outbound", dialled{out.Local, out.Remote, out.Started})
		in := byName(s.outside, app, webName, appPort)
		quickly(in, labtest.Address(s.web, 0, appPort))
		s.inbound(t, labtest.Address(s.web, 0, appPort), in)
		for pod, addr := range map[*lab.Pod]string{
			s.web:     fmt.Sprintf("[%s]:%d", publicIPv6[1], serverPort),
			s.outside: fmt.Sprintf("[%s]:%d", publicIPv6[0], appPort),
		} {
			if e := s.act(t, pod, app, "talk", "tcp6", addr); e.Event != "failed" || !strings.Contains(e.Error, "refused") {
				t.Errorf("%s: %+v, want a reset", addr, e)
			}
		}
		// Health checks and what stays in the pod are let through.
		if e, err := exchange(s.outside, fmt.Sprintf("[%s]:15021", publicIPv6[0])); err != nil || peer(t, e.Reply).String() != e.Local {
			t.Errorf("health check: %q, %v", e.Reply, err)
		}
		s.talk(t, s.web, fmt.Sprintf("[%s]:%d", publicIPv6[0], appPort), "app")
	})
}
