// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// Every way that traffic of a pod goes, carried by a proxy that does what Istio's does.
func TestTrafficEndToEnd(t *testing.T) {
	labtest.Options(t, lab.Runtimes()[0]) // before anything is asked of this machine
	host := labtest.HostRules(t)
	// The auditor would undo what a test writes itself, and the proxy is a stand-in for all that it has to do.
	forEachScene(t, []string{"ISTIO_DUAL_STACK=true"}, []string{`audit_interval = "1h"`, `proxy_identity = "off"`}, func(t *testing.T, s *scene) {
		for _, scenario := range []struct {
			what string
			run  func(*testing.T, *scene)
		}{
			{"app to outside", appToOutside},
			{"outside to app", outsideToApp},
			{"app to its own service", appToOwnService},
			{"app to its own address", appToItself},
			{"neighbours of the proxy's ports", neighbourPorts},
			{"probes from the node", probes},
			{"names by UDP", func(t *testing.T, s *scene) { lookups(t, s, "udp4") }},
			{"names by TCP", func(t *testing.T, s *scene) { lookups(t, s, "tcp4") }},
			{"names from loopback", localLookups},
			{"lasting connections", lastingConnections},
		} {
			t.Run(scenario.what, func(t *testing.T) { scenario.run(t, s) })
		}
		s.nobodyGotAround(t)
		if now := labtest.HostRules(t); now != host {
			t.Errorf("the host's rules have changed:\n%s", now)
		}
	})
}

// The server is called by the proxy, also at a port that is the proxy's own here.
func appToOutside(t *testing.T, s *scene) {
	for family := range 2 {
		for _, port := range []uint16{serverPort, 15006} {
			addr := labtest.Address(s.outside, family, port)
			e := s.talk(t, s.web, addr, "server")
			carried := s.carried(t, "outbound", dialled{e.Local, addr, e.Started})
			if carried.Remote != addr || peer(t, e.Reply).String() != carried.Addr {
				t.Errorf("%s greets with %q, the proxy says %+v", addr, e.Reply, carried)
			}
		}
	}
}

// The app is called by the proxy, with TPROXY from the client's own address.
func outsideToApp(t *testing.T, s *scene) {
	for family := range 2 {
		addr := labtest.Address(s.web, family, appPort)
		s.inbound(t, addr, s.talk(t, s.outside, addr, "app"))
	}
}

// inbound expects a connection to the app to have come by way of the proxy.
func (s *scene) inbound(t *testing.T, addr string, e lab.Event) {
	t.Helper()
	carried := s.carried(t, "inbound", dialled{e.Local, addr, e.Started})
	from := peer(t, e.Reply)
	if carried.Remote != addr || from.String() != carried.Addr {
		t.Errorf("%s greets with %q, the proxy says %+v", addr, e.Reply, carried)
	}
	if want := s.source(netip.MustParseAddrPort(e.Local).Addr()); from.Addr() != want {
		t.Errorf("the app is called from %s, want %s", from.Addr(), want)
	}
}

// The proxy finds that the service is its own pod, and calls it as anybody would: inbound rules apply.
func appToOwnService(t *testing.T, s *scene) {
	e := s.talk(t, s.web, service, "app")
	out := s.carried(t, "outbound", dialled{e.Local, service, e.Started})
	own := labtest.Address(s.web, 0, appPort)
	if out.Remote != own {
		t.Errorf("outbound, the proxy says %+v", out)
	}
	in := s.carried(t, "inbound", dialled{out.Addr, own, e.Started})
	if peer(t, e.Reply).String() != in.Addr {
		t.Errorf("the app greets with %q, inbound, the proxy says %+v", e.Reply, in)
	}
	if from, want := peer(t, e.Reply).Addr(), s.source(s.web.IPs()[0]); from != want {
		t.Errorf("the app is called from %s, want %s", from, want)
	}
}

// What stays in the pod is none of the proxy's business.
func appToItself(t *testing.T, s *scene) {
	for family, loopback := range []string{"127.0.0.1", "[::1]"} {
		for _, addr := range []string{labtest.Address(s.web, family, appPort), fmt.Sprintf("%s:%d", loopback, appPort)} {
			e := s.talk(t, s.web, addr, "app")
			if from := peer(t, e.Reply).String(); from != e.Local {
				t.Errorf("%s: the app is called from %s, not from %s", addr, from, e.Local)
			}
		}
	}
}

// An app may have any port that is not the proxy's, however near.
func neighbourPorts(t *testing.T, s *scene) {
	ports := []int{14999, 15000, 15002, 15003, 15004, 15005, 15007, 15009, 15019, 15022, 15052, 15054, 15089, 15091}
	s.run(t, s.web, lab.ContainerSpec{Name: "neighbour", User: app, Group: app, Args: append([]string{"echo", "neighbour"}, everyAddress(ports...)...)})
	for _, port := range ports {
		for family := range 2 {
			addr := labtest.Address(s.web, family, uint16(port))
			e, err := exchange(s.outside, addr)
			if err != nil || !strings.HasPrefix(e.Reply, "neighbour ") {
				t.Errorf("%s: %q, %v", addr, e.Reply, err)
				continue
			}
			s.inbound(t, addr, e)
		}
		local := fmt.Sprintf("127.0.0.1:%d", port)
		if e, err := exchange(s.web, local); err != nil || peer(t, e.Reply).String() != e.Local {
			t.Errorf("%s: %q, %v", local, e.Reply, err)
		}
	}
}

// A kubelet asks from the node: what is the app's comes by the proxy, what is the sidecar's does not. The agent asks
// the app in the kubelet's name, and that is no inbound traffic.
func probes(t *testing.T, s *scene) {
	for family := range 2 {
		addr := labtest.Address(s.web, family, appPort)
		e, err := exchange(nil, addr)
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		s.inbound(t, addr, e)
		for name, port := range map[string]uint16{"tunnel": 15008, "health": 15021, "statistics": 15090} {
			addr := labtest.Address(s.web, family, port)
			e, err := exchange(nil, addr)
			if name == "tunnel" && s.tproxy && err == nil { // Istio captures it by TPROXY
				s.inbound(t, addr, e)
			} else if want := fmt.Sprintf("%s peer=%s local=%s", name, e.Local, addr); err != nil || e.Reply != want {
				t.Errorf("%s: %q, %v, want %q", addr, e.Reply, err, want)
			}
		}
		addr = labtest.Address(s.web, family, 15020)
		if e, err = exchange(nil, addr); err != nil || !strings.HasPrefix(e.Reply, "app ") {
			t.Fatalf("%s: %q, %v", addr, e.Reply, err)
		}
		asked := s.carried(t, "agent", dialled{e.Local, addr, e.Started})
		if from := peer(t, e.Reply); from.String() != asked.Addr || from.Addr().String() != "127.0.0.6" {
			t.Errorf("the app is called from %s, the agent says %+v", from, asked)
		}
	}
}

// exchange connects from a pod, or from the node, and returns how it is greeted and from where it called when.
func exchange(from *lab.Pod, addr string) (lab.Event, error) {
	e := lab.Event{Started: time.Now().UnixNano()}
	conn, err := reach(from, addr)
	if err != nil {
		return e, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return e, err
	}
	e.Local = conn.LocalAddr().String()
	e.Reply, err = readLine(conn)
	return e, err
}

func reach(from *lab.Pod, addr string) (conn net.Conn, err error) {
	dial := func() error {
		conn, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	}
	if from == nil {
		return conn, dial()
	}
	ns, err := netns.Open(from.NetNS(), nil)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(dial)
	return conn, err
}

// readLine takes nothing beyond the line.
func readLine(conn net.Conn) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}
