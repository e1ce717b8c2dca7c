// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// Many lookups, twenty at once, half of which the proxy answers and half of which it asks upstream: none is lost,
// and each answer comes from the address that was asked. By UDP they come from a few ports, so that the proxy asks
// from ports that the app asked the same server from a moment before. Without conntrack zones, its lookups
// would be taken for the app's, and come back to it.
func lookups(t *testing.T, s *scene, network string) {
	count := 200
	if network == "udp4" {
		count = 600
		const ports = "/proc/sys/net/ipv4/ip_local_port_range"
		before := labtest.InNetNS(t, s.web.NetNS(), "cat", ports)
		labtest.InNetNS(t, s.web.NetNS(), "sh", "-c", "echo 40000 40099 >"+ports)
		defer labtest.InNetNS(t, s.web.NetNS(), "sh", "-c", "echo "+strings.TrimSpace(before)+" >"+ports)
	}
	server := labtest.Address(s.outside, 0, 53)
	earlier := s.asked(t, network)
	e := s.act(t, s.web, app, "lookup", "--count", fmt.Sprint(count), "--parallel", "20", network, server, knownName, outsideName)
	if want := fmt.Sprintf("%d of %d answered", count, count); e.Reply != want {
		t.Errorf("%s from %s", e.Reply, server)
	}
	s.expectAsked(t, network, tally{known: earlier.known + count/2, forwarded: earlier.forwarded + count/2, upstream: earlier.upstream + count/2})
}

// A name server on loopback, such as a cache in the pod, is the proxy for the app.
func localLookups(t *testing.T, s *scene) {
	for _, network := range []string{"udp4", "tcp4"} {
		want := s.asked(t, network)
		want.known++
		if e := s.act(t, s.web, app, "lookup", network, "127.0.0.1:53", knownName); e.Reply != "1 of 1 answered" {
			t.Errorf("%s: %+v", network, e)
		}
		s.expectAsked(t, network, want)
	}
}

// tally counts lookups by a protocol: those that the proxy answered, those it asked for, those that the name
// server has had from the proxy's sockets, and those it has had from others.
type tally struct{ known, forwarded, upstream, around int }

func (s *scene) asked(t *testing.T, network string) tally {
	t.Helper()
	var sum tally
	own := map[string]int{}
	for _, e := range events(t, s.proxy) {
		switch {
		case e.Network+"4" != network:
		case e.Event == "query":
			sum.known++
		case e.Event == "forwarded":
			sum.forwarded++
			own[e.Local]++
		}
	}
	for _, e := range events(t, s.names) {
		switch {
		case e.Event != "query" || e.Network+"4" != network:
		case own[e.Peer] > 0:
			own[e.Peer]--
			sum.upstream++
		default:
			sum.around++
		}
	}
	return sum
}

// expectAsked waits for it: what a container writes is read a little later.
func (s *scene) expectAsked(t *testing.T, network string, want tally) {
	t.Helper()
	var have tally
	err := lab.Poll(labtest.Within(t, time.Minute), func() (bool, error) {
		have = s.asked(t, network)
		return have == want, nil
	})
	if err != nil {
		t.Errorf("%s: lookups are %+v, want %+v", network, have, want)
	}
}
