// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lockdown

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/meshnetd/meshnetd/rules"
)

// The kernel's counters begin anew with new rules, and what was counted before stays counted.
func TestCounting(t *testing.T) {
	var now []Counted
	for step, tt := range []struct {
		counts map[string]uint64
		more   []uint64
		want   []string
	}{
		{map[string]uint64{"MESHNETD_COUNT_0_UDP": 0, "OTHER": 9, "MESHNETD_COUNT_0_OUT": 9}, nil, nil},
		{map[string]uint64{"MESHNETD_COUNT_0_UDP": 3, "MESHNETD_COUNT_2_UDP": 1, "MESHNETD_LOCK_1_UDP": 2}, []uint64{4, 2}, []string{"counted udp 4", "closed udp 2"}},
		{map[string]uint64{"MESHNETD_COUNT_0_UDP": 4, "MESHNETD_COUNT_2_UDP": 1, "MESHNETD_LOCK_1_UDP": 2}, []uint64{1, 0}, []string{"counted udp 5", "closed udp 2"}},
		{map[string]uint64{"MESHNETD_LOCK_1_UDP": 1, "MESHNETD_LOCK_1_ICMP": 1}, []uint64{0, 1, 1}, []string{"counted udp 5", "closed udp 3", "closed icmp 1"}},
		{map[string]uint64{"MESHNETD_COUNT_0_UDP": 2, "MESHNETD_LOCK_1_UDP": 1, "MESHNETD_LOCK_1_ICMP": 1}, []uint64{2, 0, 0}, []string{"counted udp 7", "closed udp 3", "closed icmp 1"}},
	} {
		var more []uint64
		now, more = counting(now, tt.counts)
		var got []string
		for _, c := range now {
			got = append(got, c.String())
		}
		if diff := cmp.Diff([]any{tt.want, tt.more}, []any{got, more}); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", step, diff)
		}
	}
}

// However many namespaces there are, what is remembered of them is bounded, and nothing is lost.
func TestTotalsAreBounded(t *testing.T) {
	var all Counts
	for i := range mostTotals + 10 {
		all.add(Total{fmt.Sprint(i), rules.ClassUDP, false}, 2)
	}
	all.add(Total{"7", rules.ClassUDP, false}, 1)
	if n := len(all.Totals()); n != mostTotals+1 || all.Totals()[Total{"(others)", rules.ClassUDP, false}] != 20 || all.Totals()[Total{"7", rules.ClassUDP, false}] != 3 {
		t.Errorf("%d, %d of others", n, all.Totals()[Total{"(others)", rules.ClassUDP, false}])
	}
}

// However many connections pods' programs make, what is remembered of them is bounded by namespace and in all, and that there were
// more is said.
func TestSeenIsBounded(t *testing.T) {
	var c Counts
	udp := func(string) []rules.Lockdown { return []rules.Lockdown{{UDP: rules.UDPNone}} }
	things := make([]rules.Seen, mostSeen+1)
	for i := range things {
		things[i] = rules.Seen{Class: rules.ClassUDP, Protocol: rules.UDP, Peer: netip.IPv6Loopback(), Port: uint16(i)}
	}
	for i := range mostSeenPods + 2 {
		c.seen.add(rules.Pod{Namespace: "a", Name: fmt.Sprint(i)}, things)
	}
	all, more := c.Lacks(udp)
	if len(all) != mostSeen || len(more) != 1 || len(all[0].Pods) != mostSeenPods || !all[0].More {
		t.Errorf("%d, more %v, %+v", len(all), more, all[0])
	}
	for i := range 2 * mostSeenEver / mostSeen {
		c.seen.add(rules.Pod{Namespace: fmt.Sprint(i)}, things)
	}
	if all, more = c.Lacks(udp); len(all) != mostSeenEver || len(more) != mostSeenEver/mostSeen {
		t.Errorf("%d in %d namespaces", len(all), len(more))
	}
}
