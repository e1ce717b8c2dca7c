// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

const (
	app   = 1000
	proxy = 1337
	root  = 0
)

// program is a stand-in that runs in a namespace.
type program struct {
	events chan lab.Event
	past   []lab.Event
}

// start runs the stand-in with a user and group id until the test ends.
func start(t *testing.T, ns *nstest.Namespace, uid, gid int, args ...string) *program {
	t.Helper()
	file, err := os.Open(labtest.Standin(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := ns.Command("/proc/self/fd/3", args...) // by its path it may be where only root can go
	cmd.ExtraFiles = []*os.File{file}
	cmd.Args = append(cmd.Args[:2], append([]string{fmt.Sprintf("--setuid=%d", uid), fmt.Sprintf("--setgid=%d", gid)}, cmd.Args[2:]...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &program{events: make(chan lab.Event, 100)}
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer close(p.events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e lab.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				select {
				case p.events <- e:
				case <-over: // nobody asks any more
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		close(over)
		<-done
		_ = cmd.Wait()
	})
	return p
}

// wait returns the first event that match accepts.
func (p *program) wait(t *testing.T, what string, match func(lab.Event) bool) lab.Event {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case e, ok := <-p.events:
			if !ok {
				t.Fatalf("ended without %s; events: %+v", what, p.past)
			}
			p.past = append(p.past, e)
			if match(e) {
				return e
			}
		case <-limit:
			t.Fatalf("no %s; events: %+v", what, p.past)
		}
	}
}

func (p *program) listening(t *testing.T, addrs ...string) *program {
	t.Helper()
	open := map[string]bool{}
	for _, addr := range addrs {
		for !open[addr] {
			e := p.wait(t, "listener on "+addr, func(e lab.Event) bool { return e.Event == "listening" })
			open[e.Addr] = true
		}
	}
	return p
}

func (p *program) accepted(t *testing.T) lab.Event {
	t.Helper()
	return p.wait(t, "connection", func(e lab.Event) bool { return e.Event == "accepted" })
}

// dial connects once and returns the peer's line, or the error of connect.
func dial(t *testing.T, ns *nstest.Namespace, uid, gid int, network, addr string) (reply, failure string) {
	t.Helper()
	e := start(t, ns, uid, gid, "dial", network, addr, "--timeout", "3s").
		wait(t, "answer", func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
	return e.Reply, e.Error
}

// pair is a protected pod with a proxy and an app, and a peer with a server, joined by a cable.
type pair struct {
	pod, peer *nstest.Namespace
	proxy     *program
	notes     []string
}

func newPair(t *testing.T, variant string, defaults istio.Defaults, pod rules.Pod, proxyArgs ...string) pair {
	t.Helper()
	e := newEnforcer(t, variant, defaults)
	p := pair{pod: nstest.New(t)}
	p.peer = p.pod.Peer(t, "10.9.0.0/24", "fd09::/64")
	pod.NetNS = p.pod.Path
	p.notes = protect(t, e, pod).Plan.Notes
	uid := proxy
	if len(proxyArgs) > 0 {
		uid = root // a transparent listener needs NET_ADMIN; Istio runs it as user 0, group 1337
	}
	p.proxy = start(t, p.pod, uid, proxy, append([]string{"proxy"}, proxyArgs...)...).listening(t, labtest.ProxyListeners...)
	serve(t, p.pod, app, "18080", "app")
	serve(t, p.pod, app, "15021", "ready")
	serve(t, p.peer, root, "19090", "peer")
	return p
}

// serve answers with a name on a port of both families.
func serve(t *testing.T, ns *nstest.Namespace, uid int, port, name string) {
	t.Helper()
	for _, addr := range []string{"0.0.0.0:" + port, "[::]:" + port} {
		start(t, ns, uid, uid, "serve", addr, name).listening(t, addr)
	}
}

const (
	pod4, peer4 = "10.9.0.1", "10.9.0.2"
	pod6, peer6 = "[fd09::1]", "[fd09::2]"
)

type attempt struct {
	from    string // pod or peer
	uid     int
	network string
	addr    string
	want    string // of the reply; "refused" for a reset
}

func (p pair) try(t *testing.T, a attempt) {
	t.Helper()
	ns := p.pod
	if a.from == "peer" {
		ns = p.peer
	}
	t.Run(fmt.Sprintf("%s uid %d to %s", a.from, a.uid, a.addr), func(t *testing.T) {
		reply, failure := dial(t, ns, a.uid, a.uid, a.network, a.addr)
		if a.want == "refused" {
			if !strings.Contains(failure, "refused") {
				t.Errorf("got %q %q, want a reset", reply, failure)
			}
			return
		}
		if !strings.HasPrefix(reply, a.want) {
			t.Errorf("got %q %q, want %q", reply, failure, a.want)
		}
	})
}

func TestRedirectedTraffic(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		pod := meshed("", "traffic.sidecar.istio.io/excludeOutboundPorts", "19091", "traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.8.0.0/16")
		pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true", "ISTIO_META_DNS_CAPTURE": "true"}}}
		p := newPair(t, variant, istio.Standard(), pod)
		serve(t, p.peer, root, "19091", "excluded")
		for _, a := range []attempt{
			{"pod", app, "tcp4", peer4 + ":19090", "outbound original_dst=10.9.0.2:19090"},
			{"pod", app, "tcp6", peer6 + ":19090", "outbound original_dst=[fd09::2]:19090"},
			{"pod", app, "tcp4", "203.0.113.9:443", "outbound original_dst=203.0.113.9:443"},
			{"pod", app, "tcp4", peer4 + ":19091", "excluded"},
			{"pod", app, "tcp6", peer6 + ":19091", "excluded"},
			{"pod", proxy, "tcp4", peer4 + ":19090", "peer"},
			{"pod", proxy, "tcp6", peer6 + ":19090", "peer"},
			{"peer", app, "tcp4", pod4 + ":18080", "inbound original_dst=10.9.0.1:18080"},
			{"peer", app, "tcp6", pod6 + ":18080", "inbound original_dst=[fd09::1]:18080"},
			{"peer", app, "tcp4", pod4 + ":15021", "ready"},
			{"peer", app, "tcp6", pod6 + ":15021", "ready"},
			{"pod", app, "tcp4", "127.0.0.1:18080", "app"},
			{"pod", app, "tcp6", "[::1]:18080", "app"},
			{"pod", app, "tcp4", pod4 + ":18080", "app"},
			{"pod", proxy, "tcp4", pod4 + ":18080", "inbound original_dst=10.9.0.1:18080"},
			{"pod", proxy, "tcp6", pod6 + ":18080", "inbound original_dst=[fd09::1]:18080"},
			{"pod", proxy, "tcp4", "127.0.0.1:18080", "app"},
			{"pod", app, "udp4", peer4 + ":53", "dns"},
			{"pod", app, "tcp4", peer4 + ":53", "dns"},
			{"pod", app, "udp6", peer6 + ":53", "dns"},
		} {
			p.try(t, a)
		}
	})
}

// The proxy sees the client's own address and the destination it dialled.
func TestTProxyTraffic(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		pod := meshed("", "sidecar.istio.io/interceptionMode", "TPROXY")
		pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}}
		p := newPair(t, variant, istio.Standard(), pod, "--transparent")
		for _, a := range []attempt{
			{"peer", app, "tcp4", pod4 + ":18080", "inbound original_dst=10.9.0.1:18080"},
			{"peer", app, "tcp6", pod6 + ":18080", "inbound original_dst=[fd09::1]:18080"},
			{"peer", app, "tcp4", pod4 + ":15021", "ready"},
			{"pod", app, "tcp4", peer4 + ":19090", "outbound original_dst=10.9.0.2:19090"},
			{"pod", app, "tcp6", peer6 + ":19090", "outbound original_dst=[fd09::2]:19090"},
			{"pod", app, "tcp4", pod4 + ":18080", "app"},
		} {
			p.try(t, a)
		}
		for _, prefix := range []string{"10.9.0.2:", "[fd09::2]:"} {
			if e := p.proxy.accepted(t); e.Listener != "inbound" || !strings.HasPrefix(e.Peer, prefix) {
				t.Errorf("the proxy saw %+v, want the client's address %s", e, prefix)
			}
		}
	})
}

// What ipv6 = "mesh", "capture" and "block" mean for a pod whose proxy speaks only IPv4.
func TestIPv6AroundTheProxy(t *testing.T) {
	always := []attempt{
		{"pod", app, "tcp4", peer4 + ":19090", "outbound original_dst=10.9.0.2:19090"},
		{"peer", app, "tcp4", pod4 + ":18080", "inbound original_dst=10.9.0.1:18080"},
		{"pod", proxy, "tcp6", peer6 + ":19090", "peer"},
		{"pod", app, "tcp6", "[::1]:18080", "app"},
		{"peer", app, "tcp6", pod6 + ":15021", "ready"},
	}
	for _, tt := range []struct {
		mode     rules.WithoutIPv6
		out, in  string
		noteSays string
	}{
		{rules.IPv6Mesh, "peer", "app", "goes around the mesh"},
		{rules.IPv6Capture, "outbound original_dst=[fd09::2]:19090", "inbound original_dst=[fd09::1]:18080", "captured although"},
		{rules.IPv6Block, "refused", "refused", "is refused"},
	} {
		t.Run(string(tt.mode), func(t *testing.T) {
			onBackends(t, func(t *testing.T, variant string) {
				defaults := istio.Standard()
				defaults.WithoutIPv6 = tt.mode
				p := newPair(t, variant, defaults, meshed(""))
				if len(p.notes) != 1 || !strings.Contains(p.notes[0], tt.noteSays) {
					t.Errorf("notes %q, want one that says %q", p.notes, tt.noteSays)
				}
				for _, a := range append(always,
					attempt{"pod", app, "tcp6", peer6 + ":19090", tt.out},
					attempt{"peer", app, "tcp6", pod6 + ":18080", tt.in}) {
					p.try(t, a)
				}
			})
		})
	}
}
