// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func hashed(hash uint64) func() uint64 { return func() uint64 { return hash } }

// The pauses of a pod grow to their longest, whatever its inputs, and end with the first work that is done in time.
func TestPausesGrow(t *testing.T) {
	var l Ledger
	now := noon
	for i, want := range []time.Duration{firstPause, 20 * time.Second, 80 * time.Second, 320 * time.Second, longestPause, longestPause} {
		till := l.Overran("pod", "shop", uint64(i), true, "why", now)
		if got := till.Sub(now); got != want {
			t.Errorf("pause %d: %s, want %s", i, got, want)
		}
		if why, until, refused := l.Refused("pod", hashed(uint64(i)), till.Add(-1)); !refused || why != "why" || !until.Equal(till) {
			t.Errorf("pause %d: refused %v, %q, %s", i, refused, why, until)
		}
		if _, _, refused := l.Refused("pod", hashed(99), now); refused {
			t.Error("refused with other inputs")
		}
		if _, _, refused := l.Refused("pod", hashed(uint64(i)), till); refused {
			t.Errorf("pause %d does not end", i)
		}
		now = till
	}
	l.InTime("pod")
	if till := l.Overran("pod", "shop", 1, true, "why", now); till.Sub(now) != firstPause {
		t.Errorf("a pod that was done in time waits %s", till.Sub(now))
	}
}

// Two containers of a pod that take turns are both remembered.
func TestWishesOfOnePodTakeTurns(t *testing.T) {
	var l Ledger
	l.Overran("pod", "shop", 1, true, "", noon)
	l.Overran("pod", "shop", 2, true, "", noon)
	for hash := uint64(1); hash <= 2; hash++ {
		if _, _, refused := l.Refused("pod", hashed(hash), noon); !refused {
			t.Errorf("inputs %d are forgotten", hash)
		}
	}
}

// Whoever makes pods, or changes one, fills no memory, and the newest refusals are the ones that stay.
func TestMemoryIsBounded(t *testing.T) {
	var l Ledger
	now := noon
	for i := range 3 * mostRefusals {
		now = now.Add(time.Millisecond)
		l.Overran(fmt.Sprint("pod", i), fmt.Sprint("tenant", i), 1, true, "", now)
		l.Overran("changing", "shop", uint64(i), true, "", now)
	}
	held := 0
	for _, all := range l.refusals {
		held += len(all)
	}
	if held != l.count || held > mostRefusals || len(l.reduced) > mostReduced || len(l.refusals["changing"]) > mostOfOnePod {
		t.Errorf("%d refusals, counted as %d; %d of one pod; %d tenants", held, l.count, len(l.refusals["changing"]), len(l.reduced))
	}
	if _, _, refused := l.Refused(fmt.Sprint("pod", 3*mostRefusals-1), hashed(1), now); !refused {
		t.Error("the newest one is forgotten")
	}
	if _, _, refused := l.Refused("pod0", hashed(1), now); refused {
		t.Error("the oldest one is remembered")
	}
}

// To ask about a pod of which nothing is remembered costs no look at its inputs and no memory.
func TestAskingCostsNothing(t *testing.T) {
	var l Ledger
	l.Overran("pod", "shop", 1, true, "", noon)
	never := func() uint64 { t.Error("hashed"); return 0 }
	if n := testing.AllocsPerRun(100, func() { l.Refused("other", never, noon) }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func TestShare(t *testing.T) {
	var l Ledger
	const whole = 1600 * time.Millisecond
	l.Overran("pod", "shop", 1, true, "", noon)
	for _, tt := range []struct {
		tenant string
		after  time.Duration
		want   time.Duration
	}{{"shop", 0, whole / 8}, {"shop", reducedFor - 1, whole / 8}, {"shop", reducedFor, whole}, {"bank", 0, whole}} {
		if got := l.Share(tt.tenant, whole, noon.Add(tt.after)); got != tt.want {
			t.Errorf("%s after %s: %s, want %s", tt.tenant, tt.after, got, tt.want)
		}
	}
}

// Only inputs that take too long keep a tenant's time short: a pod that came late since it had little was perhaps honest.
func TestShareComesBack(t *testing.T) {
	for _, byInputs := range []bool{true, false} {
		var l Ledger
		l.Overran("pod", "shop", 1, false, "", noon)
		l.Overran("other", "shop", 1, byInputs, "", noon.Add(reducedFor-1))
		if short := l.Share("shop", time.Second, noon.Add(reducedFor)) < time.Second; short != byInputs {
			t.Errorf("by inputs %v: short %v", byInputs, short)
		}
	}
}

// Abandoned work is bounded by pod, by tenant and in all; work that ends in time is not counted.
func TestWorkers(t *testing.T) {
	var w Workers
	begin := func(pod, tenant string, want bool) *Job {
		t.Helper()
		j, err := w.Begin(pod, tenant)
		if (err == nil) != want {
			t.Fatalf("%s of %s: %v", pod, tenant, err)
		}
		return j
	}
	first := begin("a0", "a", true)
	first.Abandon()
	begin("a0", "a", false)
	begin("a0", "other", false)
	for range 2 * mostLate {
		begin("quick", "a", true).End()
	}
	jobs := []*Job{first}
	for i := 1; i < mostLate; i++ {
		tenant := string(rune('a' + i/mostLateOfTenant))
		j := begin(fmt.Sprint(tenant, i), tenant, true)
		j.Abandon()
		jobs = append(jobs, j)
		if (i+1)%mostLateOfTenant == 0 {
			begin("next", tenant, false)
		}
	}
	begin("innocent", "innocent", false)
	jobs[5].End()
	begin("innocent", "innocent", true).End()
	for _, j := range jobs {
		if j != jobs[5] {
			j.End()
		}
	}
	late := begin("a0", "a", true)
	late.End()
	late.Abandon() // what was over before nobody waited any more is not left over
	if w.all != 0 || len(w.pods)+len(w.tenants) != 0 {
		t.Errorf("left over: %d, %v, %v", w.all, w.pods, w.tenants)
	}
}

func TestTurns(t *testing.T) {
	const interval = 30 * time.Second
	for _, tt := range []struct {
		missed    int
		due, long time.Duration
	}{
		{0, interval, 300 * time.Millisecond}, {1, 0, LongestLook}, {2, 2 * interval, LongestLook}, {3, 4 * interval, LongestLook},
		{8, longestWait, LongestLook}, {1000, longestWait, LongestLook},
	} {
		turn := Turn{noon, tt.missed}
		if due, long := turn.Due(interval).Sub(noon), turn.Length(interval, 49); due != tt.due || long != tt.long {
			t.Errorf("missed %d: due after %s, want %s; %s long, want %s", tt.missed, due, tt.due, long, tt.long)
		}
	}
	day := 24 * time.Hour
	if got := (Turn{noon, 5}).Due(day); !got.Equal(noon.Add(day)) {
		t.Errorf("who used up its time is looked at after %s, before the others", got.Sub(noon))
	}
	turns := []Turn{{noon, 2}, {noon.Add(2), 0}, {noon, 1}, {noon.Add(1), 0}}
	slices.SortFunc(turns, func(a, b Turn) int {
		if a.Before(b) {
			return -1
		}
		return 1
	})
	if want := []Turn{{noon.Add(1), 0}, {noon.Add(2), 0}, {noon, 1}, {noon, 2}}; !slices.Equal(turns, want) {
		t.Errorf("order: %v", turns)
	}
	if got := turns[2].After(true, noon).After(false, noon); got != (Turn{noon, 0}) {
		t.Errorf("after a look in time: %v", got)
	}
}

// All short looks of a full node and a long one fit into an interval, down to one of four seconds.
func TestLooksFitIntoAnInterval(t *testing.T) {
	for _, interval := range []time.Duration{4 * time.Second, 30 * time.Second, 24 * time.Hour} {
		for _, pods := range []int{1, 10, 250} {
			if interval < 30*time.Second && pods == 250 {
				continue // 50 ms for each are more than that
			}
			all := time.Duration(pods)*Turn{}.Length(interval, pods) + Turn{Missed: 1}.Length(interval, pods)
			if all > interval {
				t.Errorf("%d pods, %s: %s", pods, interval, all)
			}
		}
	}
}
