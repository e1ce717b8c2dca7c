// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// scene is a pod of the mesh with an app and a proxy that carries its traffic, and a pod outside the mesh with
// a server and a name server, on a real runtime with the real daemon.
type scene struct {
	lab     *lab.Lab
	daemon  labtest.Meshnetd
	backend string
	tproxy  bool

	web, outside       *lab.Pod
	proxy, app, server *lab.Container
	names              *lab.Container // the name server
	proxySpec          lab.ContainerSpec
	acts               int
}

const (
	appPort, serverPort = 8080, 9090
	service             = "203.0.113.80:80" // of the app, which only the proxy knows
	knownName           = "web.mesh.test"   // to the proxy
	outsideName         = "server.outside.test"
	webName             = "web.outside.test" // of the app, for others
)

// publicIPv6 are more addresses of the pod and of the one outside.
var publicIPv6 = [2]string{"2001:db8:7::1", "2001:db8:7::2"}

// forEachScene runs a test for both ways of writing rules and both ways of capturing inbound traffic, with what
// the proxy's environment and meshnetd's configuration say.
func forEachScene(t *testing.T, environment, config []string, test func(t *testing.T, s *scene)) {
	for _, name := range []string{backend.IPTables, backend.NFTables} {
		for _, mode := range []string{"REDIRECT", "TPROXY"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				s := &scene{backend: name, tproxy: mode == "TPROXY"}
				s.start(t, environment, config)
				test(t, s)
			})
		}
	}
}

func (s *scene) start(t *testing.T, environment, config []string) {
	t.Helper()
	s.lab = labtest.DualStack(t, lab.Runtimes()[0])
	s.daemon = labtest.RunDaemon(t, s.lab, append([]string{fmt.Sprintf("backend = %q", s.backend)}, config...)...)
	s.outside = labtest.RunPod(t, s.lab, "outside", nil)
	s.web = labtest.RunPod(t, s.lab, "web", s.annotations())
	for i, pod := range []*lab.Pod{s.web, s.outside} {
		// Clients prefer IPv6 only where it is not of a local network.
		labtest.InNetNS(t, pod.NetNS(), "ip", "addr", "add", publicIPv6[i]+"/64", "dev", "eth0", "nodad")
	}
	s.server = s.run(t, s.outside, lab.ContainerSpec{Name: "server", User: app, Group: app,
		Args: append([]string{"echo", "server"}, everyAddress(serverPort, 15006)...)})
	s.names = s.run(t, s.outside, lab.ContainerSpec{Name: "names", Args: []string{"names", "0.0.0.0:53",
		"--name", outsideName + "=" + s.outside.IPs()[0].String(), "--name", outsideName + "=" + publicIPv6[1],
		"--name", webName + "=" + s.web.IPs()[0].String(), "--name", webName + "=" + publicIPv6[0]}})
	s.listening(t, s.names, "udp", "0.0.0.0:53")

	s.proxySpec = lab.ContainerSpec{Name: "istio-proxy", User: proxy, Group: proxy,
		Env: append([]string{"ISTIO_META_DNS_CAPTURE=true"}, environment...),
		Args: []string{"envoy", "--app", labtest.Address(s.web, 0, appPort), "--service", service + "=" + labtest.Address(s.web, 0, appPort), "--name", knownName + "=192.0.2.80",
			"--upstream", labtest.Address(s.outside, 0, 53)}}
	if s.tproxy { // as Istio's injector has it
		s.proxySpec.User, s.proxySpec.Capabilities = root, []string{"NET_ADMIN"}
		s.proxySpec.Args = append(s.proxySpec.Args, "--transparent")
	}
	s.proxy = s.run(t, s.web, s.proxySpec)
	s.listening(t, s.proxy, "tcp", append(everyAddress(15008, 15020, 15021, 15090), labtest.ProxyListeners...)...)
	s.listening(t, s.proxy, "udp", "127.0.0.1:15053", "[::1]:15053")
	s.app = s.run(t, s.web, lab.ContainerSpec{Name: "app", User: app, Group: app, Args: append([]string{"echo", "app"}, everyAddress(appPort)...)})
	if line := s.daemon.Event(t, "pod_protected", "default/web"); line.Backend != s.backend {
		t.Fatalf("the rules were written by %s", line.Backend)
	}
}

func (s *scene) annotations() map[string]string {
	if s.tproxy {
		return labtest.Injected("sidecar.istio.io/interceptionMode", "TPROXY")
	}
	return labtest.Injected()
}

// everyAddress lists ports of both families, as the stand-in wants them.
func everyAddress(ports ...int) []string {
	var addrs []string
	for _, port := range ports {
		addrs = append(addrs, fmt.Sprintf("0.0.0.0:%d", port), fmt.Sprintf("[::]:%d", port))
	}
	return addrs
}

// run runs a container, and returns when the TCP listeners of its arguments are open.
func (s *scene) run(t *testing.T, pod *lab.Pod, spec lab.ContainerSpec) *lab.Container {
	t.Helper()
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range spec.Args {
		if strings.HasPrefix(addr, "0.0.0.0:") || strings.HasPrefix(addr, "[::]:") {
			s.listening(t, c, "tcp", addr)
		}
	}
	return c
}

func (s *scene) listening(t *testing.T, c *lab.Container, network string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		s.wait(t, c, "listener on "+addr, func(e lab.Event) bool { return e.Event == "listening" && e.Network == network && e.Addr == addr })
	}
}

func (s *scene) wait(t *testing.T, c *lab.Container, what string, match func(lab.Event) bool) lab.Event {
	t.Helper()
	e, err := c.WaitFor(labtest.Within(t, time.Minute), match)
	if err != nil {
		t.Fatalf("no %s: %v", what, err)
	}
	return e
}

// act runs a container of the pod that does one thing, as a user, and returns its last word.
func (s *scene) act(t *testing.T, pod *lab.Pod, uid int, args ...string) lab.Event {
	t.Helper()
	s.acts++
	c := s.run(t, pod, lab.ContainerSpec{Name: fmt.Sprintf("act-%d", s.acts), User: int64(uid), Group: int64(uid), Args: args})
	return s.wait(t, c, "end of it", func(e lab.Event) bool { return e.Event == "talked" || e.Event == "failed" || e.Event == "looked_up" })
}

// talk connects from a pod to an address, and expects to be greeted by a server and to get back what it sends.
func (s *scene) talk(t *testing.T, pod *lab.Pod, addr, server string) lab.Event {
	t.Helper()
	e := s.act(t, pod, app, "talk", networkOf(addr), addr)
	if e.Event != "talked" || !strings.HasPrefix(e.Reply, server+" ") {
		t.Fatalf("%s: got %+v, want to be greeted by %s", addr, e, server)
	}
	return e
}

func networkOf(addr string) string {
	if strings.HasPrefix(addr, "[") {
		return "tcp6"
	}
	return "tcp4"
}

// peer returns the address that a server says it is called from.
func peer(t *testing.T, greeting string) netip.AddrPort {
	t.Helper()
	for field := range strings.FieldsSeq(greeting) {
		if text, ok := strings.CutPrefix(field, "peer="); ok {
			return netip.MustParseAddrPort(text)
		}
	}
	t.Fatalf("%q does not say who calls", greeting)
	return netip.AddrPort{}
}

// dialled is a connection as its client knows it. A port is used again and again, also towards the same address, so that
// only the time tells it from those before.
type dialled struct {
	from, to string
	at       int64 // the client had not begun before, Unix nanoseconds
}

// carried returns what the proxy says of a connection.
func (s *scene) carried(t *testing.T, listener string, c dialled) lab.Event {
	t.Helper()
	return s.wait(t, s.proxy, fmt.Sprintf("%s connection from %s to %s", listener, c.from, c.to), func(e lab.Event) bool {
		return e.Event == "carried" && e.Listener == listener && e.Peer == c.from && e.OriginalDst == c.to && e.At >= c.at
	})
}

// source is the address from which the app is called for a client: its own is kept by TPROXY only.
func (s *scene) source(client netip.Addr) netip.Addr {
	switch {
	case s.tproxy:
		return client
	case client.Is6():
		return netip.MustParseAddr("::6")
	}
	return netip.MustParseAddr("127.0.0.6")
}

func events(t *testing.T, c *lab.Container) []lab.Event {
	t.Helper()
	all, err := c.Events()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// nobodyGotAround looks at all connections there have been: each that the server outside has had from the pod
// was carried by the proxy, and so was each that the app has had, but for those that never left the pod.
func (s *scene) nobodyGotAround(t *testing.T) {
	t.Helper()
	var problems []string
	// What a container writes is read a little later.
	err := lab.Poll(labtest.Within(t, time.Minute), func() (bool, error) {
		problems = s.around(t)
		return len(problems) == 0, nil
	})
	if err != nil {
		t.Error(strings.Join(problems, "\n"))
	}
}

func (s *scene) around(t *testing.T) (problems []string) {
	t.Helper()
	proxied := map[[3]string]int{} // connections of the proxy, by listener and both ends
	for _, e := range events(t, s.proxy) {
		switch e.Event {
		case "carried":
			proxied[[3]string{e.Listener, e.Addr, e.Remote}]++
		case "blocked", "carry_failed", "lookup_failed", "listen_failed":
			problems = append(problems, fmt.Sprintf("the proxy says %+v", e))
		}
	}
	for listener, c := range map[string]*lab.Container{"outbound": s.server, "inbound": s.app} {
		for _, e := range events(t, c) {
			if e.Event != "accepted" {
				continue
			}
			from := netip.MustParseAddrPort(e.Peer).Addr()
			inside := from.IsLoopback() || slices.Contains(s.web.IPs(), from)
			if inside != (listener == "outbound") {
				continue
			}
			if ends := [3]string{listener, e.Peer, e.Local}; proxied[ends] > 0 {
				proxied[ends]--
			} else {
				problems = append(problems, fmt.Sprintf("went around the proxy: %+v", e))
			}
		}
	}
	return problems
}
