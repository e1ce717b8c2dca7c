// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// startEnvoy runs it where nobody redirects anything to it.
func startEnvoy(t *testing.T, args ...string) *output {
	t.Helper()
	return start(t, append([]string{"envoy", "--inbound", "0", "--dns", "0", "--agent", "0", "--own-ports=false"}, args...)...)
}

// freePort returns the number of a port of 127.0.0.2 that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return port(t, ln.Addr().String())
}

func once(t *testing.T, args ...string) (event, error) {
	t.Helper()
	out := &output{}
	err := run(t.Context(), args, out)
	events := out.events(t)
	if len(events) == 0 {
		t.Fatalf("%v wrote nothing and ended with %v", args, err)
	}
	return events[len(events)-1], err
}

func listeningEcho(t *testing.T) string {
	t.Helper()
	return start(t, "echo", "app", "127.0.0.1:0").wait(t, func(e event) bool { return e.Event == "listening" }).Addr
}

func TestTalkGetsBackWhatItSends(t *testing.T) {
	addr := listeningEcho(t)
	got, err := once(t, "talk", "tcp4", addr)
	if want := "app peer=" + got.Local + " local=" + addr; err != nil || got.Event != "talked" || got.Reply != want {
		t.Errorf("got %+v, %v, want %q", got, err, want)
	}
}

func TestTalkNoticesALostByte(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("hello\n"))
		data := make([]byte, 10)
		_, _ = conn.Read(data)
		_, _ = conn.Write(data[:9])
	}()
	got, err := once(t, "talk", "--bytes", "10", "tcp4", ln.Addr().String())
	if !errors.Is(err, errReported) || got.Event != "failed" || !strings.Contains(got.Error, "9 bytes came back of 10") {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEnvoyCarriesToTheService(t *testing.T) {
	app, p := listeningEcho(t), freePort(t)
	out := startEnvoy(t, "--outbound", p, "--service", "127.0.0.2:"+p+"="+app)
	listening(t, out, "outbound", "tcp")

	got, err := once(t, "talk", "tcp4", "127.0.0.2:"+p)

	carried := out.wait(t, func(e event) bool { return e.Event == "carried" })
	if err != nil || !strings.HasPrefix(got.Reply, "app peer="+carried.Addr+" ") {
		t.Errorf("got %+v, %v, not from %s", got, err, carried.Addr)
	}
	if carried.Listener != "outbound" || carried.Peer != got.Local || carried.OriginalDst != "127.0.0.2:"+p || carried.Remote != app {
		t.Errorf("told %+v", carried)
	}
}

// A connection that nobody redirected would be carried to the listener itself, and so on.
func TestEnvoyDoesNotCallItself(t *testing.T) {
	p := freePort(t)
	out := startEnvoy(t, "--outbound", p)
	listening(t, out, "outbound", "tcp")

	_, err := once(t, "talk", "tcp4", "127.0.0.2:"+p)

	if !errors.Is(err, errReported) {
		t.Errorf("got %v", err)
	}
	if e := out.wait(t, func(e event) bool { return e.Event == "blocked" || e.Event == "carried" }); e.Event != "blocked" {
		t.Errorf("told %+v", e)
	}
}

// The agent has a port of its own, which nobody redirects.
func TestAgentAsksTheApp(t *testing.T) {
	app, p := listeningEcho(t), freePort(t)
	out := startEnvoy(t, "--outbound", "0", "--agent", p, "--app", app)
	listening(t, out, "agent", "tcp")

	got, err := once(t, "talk", "tcp4", "127.0.0.2:"+p)

	if want := "app peer=127.0.0.6:"; err != nil || !strings.HasPrefix(got.Reply, want) {
		t.Errorf("got %+v, %v, want %s", got, err, want)
	}
}

func TestAppIsCalledFromAnAddressOfItsOwn(t *testing.T) {
	app := listeningEcho(t)
	conn, err := new(envoy).dialApp(netip.AddrPort{}, netip.MustParseAddrPort(app))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from := localAddr(conn).Addr().String(); from != "127.0.0.6" {
		t.Errorf("called from %s", from)
	}
}

// startNames runs a name server and returns its address, which is that of UDP and TCP.
func startNames(t *testing.T, known ...string) (out *output, addr string) {
	t.Helper()
	addr = "127.0.0.2:" + freePort(t)
	args := []string{"names", addr}
	for _, name := range known {
		args = append(args, "--name", name)
	}
	out = start(t, args...)
	for _, network := range []string{"udp", "tcp"} {
		listening(t, out, "names", network)
	}
	return out, addr
}

func TestNamesAreLookedUp(t *testing.T) {
	_, addr := startNames(t, "a.test=192.0.2.1", "a.test=2001:db8::1", "b.test=192.0.2.2")
	for _, network := range []string{"udp4", "tcp4"} {
		out := &output{}
		if err := run(t.Context(), []string{"lookup", "--count", "50", "--parallel", "5", network, addr, "a.test", "b.test"}, out); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		for name, want := range map[string]string{"a.test": "192.0.2.1", "b.test": "192.0.2.2"} {
			if got := out.wait(t, func(e event) bool { return e.Event == "found" && e.Addr == name }); got.Reply != want {
				t.Errorf("%s: %s is %s, want %s", network, name, got.Reply, want)
			}
		}
		if got := out.wait(t, func(e event) bool { return e.Event == "looked_up" }); got.Reply != "50 of 50 answered" {
			t.Errorf("%s: %s", network, got.Reply)
		}
	}
}

func TestUnknownNamesAreAskedUpstream(t *testing.T) {
	upstream, addr := startNames(t, "outside.test=192.0.2.9")
	out := startEnvoy(t, "--outbound", "0", "--name", "known.test=192.0.2.1", "--upstream", addr)
	for network, listen := range map[string]string{"udp4": "udp", "tcp4": "tcp"} {
		proxy := listening(t, out, "dns", listen)
		got, err := once(t, "lookup", "--count", "2", network, proxy, "known.test", "outside.test")
		if err != nil || got.Reply != "2 of 2 answered" {
			t.Errorf("%s: %+v, %v", network, got, err)
		}
		forwarded := out.wait(t, func(e event) bool { return e.Event == "forwarded" && e.Network == listen })
		upstream.wait(t, func(e event) bool { return e.Event == "query" && e.Network == listen && e.Peer == forwarded.Local })
		if _, err := once(t, "lookup", network, proxy, "nowhere.test"); !errors.Is(err, errReported) {
			t.Errorf("%s: an unknown name was found: %v", network, err)
		}
	}
}

// An answer from elsewhere is none.
func TestLookupKnowsWhoAnswers(t *testing.T) {
	asked, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = asked.Close() }()
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	go func() {
		query := make([]byte, dnsLargest)
		size, peer, err := asked.ReadFrom(query)
		if err != nil {
			return
		}
		answer, _, _ := zone{"a.test": {netip.MustParseAddr("192.0.2.1")}}.answer(query[:size])
		_, _ = other.WriteTo(answer, peer)
	}()
	_, err = lookup("udp4", asked.LocalAddr().String(), ask(1, "a.test", dnsA))
	if want := "the answer is from " + other.LocalAddr().String(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Go's own resolver understands the answers: talk asks with it.
func TestTalkByName(t *testing.T) {
	app := listeningEcho(t)
	_, server := startNames(t, "app.test=127.0.0.1", "app.test=::1")
	got, err := once(t, "talk", "tcp", "app.test:"+port(t, app), "--resolver", server)
	if err != nil || got.Remote != app {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEnvoyEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	args := []string{"envoy", "--outbound", "0", "--inbound", "0", "--dns", "0", "--agent", "0", "--own-ports=false"}
	if err := run(ctx, args, &output{}); err != nil {
		t.Error(err)
	}
}
