// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/auditor"
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
	var all totals
	for i := range mostTotals + 10 {
		all.add(Total{fmt.Sprint(i), rules.ClassUDP, false}, 2)
	}
	all.add(Total{"7", rules.ClassUDP, false}, 1)
	if n := len(all.all); n != mostTotals+1 || all.all[Total{"(others)", rules.ClassUDP, false}] != 20 || all.all[Total{"7", rules.ClassUDP, false}] != 3 {
		t.Errorf("%d, %d of others", n, all.all[Total{"(others)", rules.ClassUDP, false}])
	}
}

// The auditor reads what the lockdown of a pod has counted, says of each class that it has begun, and leaves other pods alone.
func TestAuditorCounts(t *testing.T) {
	for _, locked := range []bool{true, false} {
		m := newMemory()
		e, r := newEnforcer(t, m)
		policy := *e.policy.Load()
		if locked {
			policy.Node.Lockdowns = []rules.Lockdown{{Place: "a.toml:1", UDP: rules.UDPNone, ICMP: true}}
			e.SetPolicy(policy)
		}
		pod := meshed(newNetNS(t))
		pod.SandboxID = "a"
		if o := e.Enforce(t.Context(), SandboxStarted, pod); o.Result != Protected {
			t.Fatal(o.Result, o.Err)
		}
		var said []string
		for _, counts := range []map[string]uint64{{"MESHNETD_COUNT_0_UDP": 0}, {"MESHNETD_COUNT_0_UDP": 3, "MESHNETD_COUNT_0_INVALID": 1}, {"MESHNETD_COUNT_0_UDP": 5, "MESHNETD_COUNT_0_ICMP": 1}} {
			m.counts, m.seen = counts, []rules.Seen{{Class: rules.ClassUDP, Protocol: rules.UDP, Peer: netip.MustParseAddr("10.0.0.5"), Port: 8125}}
			round{e}.Look(t.Context(), "a", &auditor.Audit{})
		}
		for _, o := range r.outcomes {
			if o.Event() == EventLockdown {
				said = append(said, o.message())
			}
		}
		var want []string
		wantTotals, wantCounted := 0, 0
		if locked {
			want = []string{"the first packets of the pod that a lockdown is for: counted udp 3 (udp to 10.0.0.5:8125)", "the first packets of the pod that a lockdown is for: counted icmp 1"}
			wantTotals, wantCounted = 3, 3
		}
		sb, _ := e.Sandbox("a")
		if diff := cmp.Diff(want, said); diff != "" || len(e.Totals()) != wantTotals || len(sb.Counted) != wantCounted {
			t.Errorf("locked %v (-want +got):\n%s\n%v, %v", locked, diff, e.Totals(), sb.Counted)
		}
		var lacking []string
		lacks, _ := e.Lacks()
		for _, l := range lacks {
			lacking = append(lacking, fmt.Sprintf("%s: %s %s of %s", l.Lockdown, l.Key, l.Value, l.Pods))
		}
		if text := strings.Join(lacking, "; "); locked != (text == "[[lockdown]] of a.toml:1: allow 10.0.0.5/32:8125/udp of [web]") {
			t.Errorf("locked %v lacks %s", locked, text)
		}
		if locked && e.Totals()[Total{"default", rules.ClassUDP, false}] != 5 {
			t.Errorf("%v", e.Totals())
		}
	}
}

// However many connections pods' programs make, what is remembered of them is bounded by namespace and in all, and that there were
// more is said.
func TestSeenIsBounded(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	e.with(func(p *Policy) { p.Node.Lockdowns = []rules.Lockdown{{UDP: rules.UDPNone}} })
	things := make([]rules.Seen, mostSeen+1)
	for i := range things {
		things[i] = rules.Seen{Class: rules.ClassUDP, Protocol: rules.UDP, Peer: netip.IPv6Loopback(), Port: uint16(i)}
	}
	for i := range mostSeenPods + 2 {
		e.seen.add(rules.Pod{Namespace: "a", Name: fmt.Sprint(i)}, things)
	}
	all, more := e.Lacks()
	if len(all) != mostSeen || len(more) != 1 || len(all[0].Pods) != mostSeenPods || !all[0].More {
		t.Errorf("%d, more %v, %+v", len(all), more, all[0])
	}
	for i := range 2 * mostSeenEver / mostSeen {
		e.seen.add(rules.Pod{Namespace: fmt.Sprint(i)}, things)
	}
	if all, more = e.Lacks(); len(all) != mostSeenEver || len(more) != mostSeenEver/mostSeen {
		t.Errorf("%d in %d namespaces", len(all), len(more))
	}
}
