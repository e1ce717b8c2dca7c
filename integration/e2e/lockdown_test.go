// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// A pod that is locked down talks through its proxy as ever, and its names are looked up. What would go around the proxy fails
// at once, so that QUIC falls back; and the proxy reaches what it is let reach, and nothing else.
func TestLockdownEndToEnd(t *testing.T) {
	labtest.Options(t, lab.Runtimes()[0])
	for _, name := range []string{backend.IPTables, backend.NFTables} {
		t.Run(name, func(t *testing.T) {
			s := &scene{backend: name}
			s.start(t, []string{"ISTIO_DUAL_STACK=true"}, []string{`audit_interval = "1h"`, `proxy_identity = "off"`, `
[[lockdown]]
mode = "enforce"
udp = "dns"
icmp = "errors"
other_protocols = "none"
egress = "proxy"
proxy_egress = ["0.0.0.0/0:9090/tcp", "::/0:9090/tcp", "0.0.0.0/0:53/udp", "0.0.0.0/0:53/tcp"]
inbound = "proxy"
local_ports = [15020]`})
			for family := range 2 {
				s.talk(t, s.web, labtest.Address(s.outside, family, serverPort), "server")
				s.talk(t, s.outside, labtest.Address(s.web, family, appPort), "app")
			}
			if e := s.act(t, s.web, app, "lookup", "udp4", labtest.Address(s.outside, 0, 53), knownName); e.Reply != "1 of 1 answered" {
				t.Errorf("a lookup: %+v", e)
			}
			gateway, elsewhere := labtest.Address(s.outside, 0, serverPort), labtest.Address(s.outside, 0, 15006)
			if e := s.act(t, s.web, proxy, "talk", "tcp4", gateway); e.Event != "talked" {
				t.Errorf("the proxy to what it may reach: %+v", e)
			}
			if e := s.act(t, s.web, proxy, "talk", "tcp4", elsewhere); e.Event != "failed" || !strings.Contains(e.Error, "refused") {
				t.Errorf("the proxy to what it may not reach: %+v", e)
			}
			for family, network := range []string{"4", "6"} {
				s.refused(t, "QUIC", "udp"+network, labtest.Address(s.outside, family, 443))
				s.refused(t, "a lookup at another server", "udp"+network, labtest.Address(s.outside, family, 5353))
				s.refused(t, "a port of the proxy", "tcp"+network, []string{"127.0.0.1:15020", "[::1]:15020"}[family])
			}
			s.refused(t, "ping", "ip4:icmp", s.outside.IPs()[0].String())
		})
	}
}

// refused expects a program of the pod that is not the proxy to fail at once.
func (s *scene) refused(t *testing.T, what, network, addr string) {
	t.Helper()
	ns, err := netns.Open(s.web.NetNS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		conn, err := net.DialTimeout(network, addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		echo := []byte{8, 0, 0xf7, 0xfe, 0, 1, 0, 0} // a request, with its checksum
		if _, err := conn.Write(echo); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 16))
		return err
	})
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
		t.Errorf("%s, %s to %s: %v", what, network, addr, err)
	}
}
