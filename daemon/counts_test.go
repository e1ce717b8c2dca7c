// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
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
	var all totals
	for i := range mostTotals + 10 {
		all.add(Total{fmt.Sprint(i), rules.ClassUDP, false}, 2)
	}
	all.add(Total{"7", rules.ClassUDP, false}, 1)
	if n := len(all.all); n != mostTotals+1 || all.all[Total{"(others)", rules.ClassUDP, false}] != 20 || all.all[Total{"7", rules.ClassUDP, false}] != 3 {
		t.Errorf("%d, %d of others", n, all.all[Total{"(others)", rules.ClassUDP, false}])
	}
}
