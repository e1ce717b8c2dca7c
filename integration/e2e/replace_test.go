// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

const replacements = 50

// Connections in both directions carry data while the rules are replaced, and lose none of it. Between two
// replacements each has carried some.
func lastingConnections(t *testing.T, s *scene) {
	var streams streams
	for family := range 2 {
		streams = append(streams, startStream(t, s.web, labtest.Address(s.outside, family, serverPort), "server"),
			startStream(t, s.outside, labtest.Address(s.web, family, appPort), "app"))
	}
	streams = append(streams, startStream(t, s.web, service, "app"))
	streams.carryOn(t)
	firewall := labtest.Firewall(t, s.backend)
	ns, err := netns.Open(s.web.NetNS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	own, other := s.plan(t, ""), s.plan(t, "19091")
	if changed, err := firewall.Apply(t.Context(), ns, own); err != nil || changed {
		t.Fatalf("this is not the plan that meshnetd wrote: changed %t, %v", changed, err)
	}
	for i := range replacements {
		if changed, err := firewall.Apply(t.Context(), ns, []rules.Plan{other, own}[i%2]); err != nil || !changed {
			t.Fatalf("changed %t, %v", changed, err)
		}
		streams.carryOn(t)
	}
	s.refine(t)
	streams.carryOn(t)
	for _, st := range streams {
		st.finish(t)
	}
}

// plan is what meshnetd makes of the pod, with one more outbound port left out.
func (s *scene) plan(t *testing.T, port string) rules.Plan {
	t.Helper()
	pod := rules.Pod{Namespace: "default", Name: "web", NetNS: s.web.NetNS(), Annotations: s.annotations()}
	if port != "" {
		pod.Annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] = "15020," + port
	}
	env := map[string]string{}
	for _, entry := range s.proxySpec.Env {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	pod.Containers = []rules.Container{{Name: "istio-proxy", Env: env}}
	plan, err := istio.New(istio.Standard()).Decide(pod).Planner(rules.Network{Addresses: s.web.IPs()})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// refine has meshnetd itself replace the rules: the proxy's next container says something else.
func (s *scene) refine(t *testing.T) {
	t.Helper()
	const drop = "ISTIO_DROP"
	if text := s.written(t); strings.Contains(text, drop) {
		t.Fatalf("it is there already:\n%s", text)
	}
	spec := s.proxySpec
	spec.Attempt, spec.Env = 1, append(spec.Env, "INVALID_DROP=true")
	if _, err := s.web.CreateContainer(labtest.Within(t, time.Minute), spec); err != nil {
		t.Fatal(err)
	}
	if text := s.written(t); !strings.Contains(text, drop) {
		t.Errorf("the proxy's next container says INVALID_DROP, but\n%s", text)
	}
}

// written returns the pod's rules as nft shows them, whoever wrote them.
func (s *scene) written(t *testing.T) string {
	t.Helper()
	return labtest.InNetNS(t, s.web.NetNS(), "nft", "list", "ruleset")
}

// stream sends on a connection without a pause, and expects back what it sent.
type stream struct {
	what  string
	conn  net.Conn
	stop  context.CancelFunc
	sent  atomic.Int64
	back  atomic.Int64
	moved chan struct{} // something came back
	done  chan error
}

// underway is how many bytes are sent ahead of what came back: enough for a packet at any time.
const underway = 16 << 10

func startStream(t *testing.T, from *lab.Pod, addr, server string) *stream {
	t.Helper()
	conn, err := reach(from, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	greeting, err := readLine(conn)
	if err != nil || !strings.HasPrefix(greeting, server+" ") {
		t.Fatalf("%s greets with %q, %v", addr, greeting, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &stream{what: fmt.Sprintf("from %s to %s", conn.LocalAddr(), addr), conn: conn, stop: stop,
		moved: make(chan struct{}, 1), done: make(chan error, 2)}
	go func() { s.done <- s.write(ctx) }()
	go func() { s.done <- s.read() }()
	return s
}

// pattern is the byte at a place of the stream; no power of two, so that a lost block shows.
func pattern(place int64) byte { return byte(place % 251) }

func (s *stream) write(ctx context.Context) error {
	block := make([]byte, 64)
	for ctx.Err() == nil {
		if s.sent.Load()-s.back.Load() > underway {
			select {
			case <-s.moved:
			case <-ctx.Done():
			}
			continue
		}
		for i := range block {
			block[i] = pattern(s.sent.Load() + int64(i))
		}
		n, err := s.conn.Write(block)
		s.sent.Add(int64(n))
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", s.sent.Load(), err)
		}
	}
	return s.conn.(*net.TCPConn).CloseWrite()
}

func (s *stream) read() error {
	block := make([]byte, 4096)
	for {
		n, err := s.conn.Read(block)
		for i, b := range block[:n] {
			if place := s.back.Load() + int64(i); b != pattern(place) {
				return fmt.Errorf("another byte came back at %d", place)
			}
		}
		s.back.Add(int64(n))
		select {
		case s.moved <- struct{}{}:
		default:
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes came back: %w", s.back.Load(), err)
		}
	}
}

// streams are those of a test.
type streams []*stream

// carryOn waits until each connection has carried something that was sent from now on.
func (all streams) carryOn(t *testing.T) {
	t.Helper()
	began := time.Now()
	targets := make([]int64, len(all))
	for i, s := range all {
		targets[i] = s.sent.Load() + 1
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i, s := range all {
		for s.back.Load() < targets[i] {
			select {
			case err := <-s.done:
				t.Fatalf("%s: it ended: %v", s.what, err)
			case <-tick.C:
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%s: nothing comes back", s.what)
			}
		}
	}
}

// finish ends the connection and expects every byte to have come back.
func (s *stream) finish(t *testing.T) {
	t.Helper()
	s.stop()
	if err := s.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-s.done; err != nil {
			t.Errorf("%s: %v", s.what, err)
		}
	}
	if s.sent.Load() != s.back.Load() {
		t.Errorf("%s: %d bytes of %d came back", s.what, s.back.Load(), s.sent.Load())
	}
}
