// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"testing"
)

func TestFloodConnectsAgainAndAgainToEach(t *testing.T) {
	servers := []*output{start(t, "serve", "127.0.0.1:0", "one"), start(t, "serve", "127.0.0.1:0", "two")}
	args := []string{"flood"}
	for _, s := range servers {
		args = append(args, s.wait(t, func(e event) bool { return e.Event == "listening" }).Addr)
	}

	flood := start(t, args...)

	flood.wait(t, func(e event) bool { return e.Event == "attempted" })
	for _, s := range servers {
		peers := map[string]bool{} // each connection has a port of its own
		s.wait(t, func(e event) bool {
			if e.Event == "accepted" {
				peers[e.Peer] = true
			}
			return len(peers) > burst+1
		})
	}
	if events := flood.events(t); len(events) != 1 {
		t.Errorf("flood wrote %d events, want one", len(events))
	}
}

func TestFloodGoesOnWhenNobodyAnswers(t *testing.T) {
	flood := start(t, "flood", "127.0.0.1:1")
	flood.wait(t, func(e event) bool { return e.Event == "attempted" })
	if err := run(t.Context(), []string{"flood"}, &output{}); err == nil {
		t.Error("no error without an address")
	}
}

func TestFloodSendsDatagrams(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	start(t, "flood", "-datagrams", conn.LocalAddr().String())
	peers := map[string]bool{}
	for text := make([]byte, 2*len(ping)); len(peers) < 2; {
		n, from, err := conn.ReadFrom(text)
		if err != nil || string(text[:n]) != ping {
			t.Fatalf("got %q, %v", text[:n], err)
		}
		peers[from.String()] = true
	}
}
