// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// failing is a pod that is refused in a new sandbox each time.
func failing(name, why string) Outcome {
	return Outcome{Pod: rules.Pod{Namespace: "shop", Name: name}, Trigger: SandboxStarted, Result: Failed, Said: lifecycle.EventBlocked, Err: errors.New(why)}
}

func TestRepeats(t *testing.T) {
	web, other := failing("web", "a"), failing("other", "a")
	changed, refused, container := failing("web", "b"), failing("web", "a"), failing("web", "a")
	refused.Decision.Reason, container.Container = rules.ReasonBadInput, "app"
	well := Outcome{Pod: web.Pod, Result: Protected, Said: lifecycle.EventProtected}
	late := well
	late.Trigger, late.Changed, late.Said = Takeover, true, lifecycle.EventLate
	found := Outcome{Pod: web.Pod, Trigger: Audited, Result: Unprotected, Said: lifecycle.EventDrift, Drifted: true, Err: errors.New("x")}
	repaired := Outcome{Pod: web.Pod, Trigger: Audited, Result: Protected, Said: lifecycle.EventRepaired}
	skipped := Outcome{Pod: web.Pod, Result: Skipped, Said: lifecycle.EventSkipped}
	type step struct {
		after time.Duration // the one before
		o     Outcome
		want  string // "left" lines that are said to be left out, or "-" for a line that is not written
	}
	const s, m, h = time.Second, time.Minute, time.Hour
	for name, steps := range map[string][]step{
		"the same is written after a minute, two, four": {{0, web, "0"}, {10 * s, web, "-"}, {49 * s, web, "-"}, {1 * s, web, "2"},
			{119 * s, web, "-"}, {1 * s, web, "1"}, {m, web, "-"}, {m, web, "-"}, {2 * m, web, "2"}},
		"and at least each hour": {{0, web, "0"}, {m, web, "0"}, {2 * m, web, "0"}, {4 * m, web, "0"}, {8 * m, web, "0"}, {16 * m, web, "0"},
			{32 * m, web, "0"}, {h - s, web, "-"}, {s, web, "1"}, {h - s, web, "-"}, {s, web, "1"}},
		"who is quiet for an hour is new":     {{0, web, "0"}, {m, web, "0"}, {s, web, "-"}, {h + s, web, "1"}, {59 * s, web, "-"}, {s, web, "1"}},
		"quiet is since it was seen":          {{0, web, "0"}, {m, web, "0"}, {2 * m, web, "0"}, {4*m - s, web, "-"}, {h, web, "1"}, {7 * m, web, "-"}},
		"another error is news":               {{0, web, "0"}, {s, changed, "0"}, {s, web, "-"}, {s, changed, "-"}, {m, web, "1"}},
		"another reason is news":              {{0, web, "0"}, {s, refused, "0"}},
		"another container is news":           {{0, web, "0"}, {s, container, "0"}, {s, container, "-"}},
		"another pod is news":                 {{0, web, "0"}, {s, other, "0"}},
		"a success says what was left out":    {{0, web, "0"}, {s, web, "-"}, {s, web, "-"}, {s, changed, "0"}, {s, changed, "-"}, {s, well, "3"}, {s, well, "0"}},
		"a success is written each time":      {{0, well, "0"}, {0, well, "0"}},
		"after a success a failure is news":   {{0, web, "0"}, {s, well, "0"}, {s, web, "0"}},
		"the success of another is not its":   {{0, other, "0"}, {s, other, "-"}, {s, well, "0"}, {s, other, "-"}},
		"who only comes by ends no silence":   {{0, web, "0"}, {s, web, "-"}, {s, skipped, "0"}, {s, web, "-"}},
		"warnings are left out, too":          {{0, late, "0"}, {s, late, "-"}},
		"drift that comes again and again":    {{0, found, "0"}, {0, repaired, "0"}, {30 * s, found, "-"}, {0, repaired, "-"}, {30 * s, found, "1"}, {0, repaired, "1"}},
		"a repair is no end of other trouble": {{0, web, "0"}, {s, repaired, "0"}, {s, web, "-"}},
	} {
		t.Run(name, func(t *testing.T) {
			var r repeats
			now := time.Unix(1_000_000, 0)
			var got, want []string
			for _, step := range steps {
				now = now.Add(step.after)
				left, news := r.news(step.o, now)
				said := fmt.Sprint(left)
				if !news {
					said = "-"
				}
				got, want = append(got, said), append(want, step.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The kubelet makes a new sandbox for each try; what is another one in each is no news.
func TestRepeatsOfOtherSandboxes(t *testing.T) {
	var r repeats
	now := time.Unix(1_000_000, 0)
	for i := range 3 {
		id, path, ns := fmt.Sprintf("%064d", i), fmt.Sprintf("/run/netns/cni-%d", i), netns.ID{Dev: 4, Ino: uint64(4026531840 + i)}
		o := failing("web", fmt.Sprintf("sandbox %s: open %s (%s): no such file", id, path, ns))
		o.Pod.SandboxID, o.Pod.NetNS, o.NetNS = id, path, ns
		if _, news := r.news(o, now); news != (i == 0) {
			t.Errorf("try %d: news is %v", i, news)
		}
	}
}

// Neither many pods nor one with an error that never is the same may fill the memory.
func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	now := time.Unix(1_000_000, 0)
	for i := range mostRepeats + 10 {
		r.news(failing("web", fmt.Sprint(i)), now.Add(time.Duration(i)*time.Millisecond))
	}
	if n := len(r.lines); n != mostRepeats {
		t.Errorf("%d lines are remembered", n)
	}
	if _, news := r.news(failing("web", fmt.Sprint(mostRepeats+9)), now.Add(2*time.Second)); news {
		t.Error("the last one is forgotten")
	}
	if _, news := r.news(failing("web", "0"), now.Add(2*time.Second)); !news {
		t.Error("the oldest one is not forgotten")
	}
}

func TestRepeatedLine(t *testing.T) {
	var out bytes.Buffer
	record, flush := Log(slog.New(slog.NewTextHandler(&out, nil)), func() {})
	at := time.Unix(1_000_000, 0)
	for range 4 {
		o := failing("web", "why")
		o.Began, o.Took, at = at, time.Second, at.Add(25*time.Second)
		record(o)
	}
	late := failing("web", "why")
	late.Result, late.Said = Unprotected, lifecycle.EventStopped
	record(late)
	flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || strings.Contains(lines[0], "repeated") || !strings.Contains(lines[1], " repeated=2") || strings.Contains(lines[1], "error=") ||
		!strings.Contains(lines[2], "event=pod_stopped") || !strings.Contains(lines[2], " error=why") {
		t.Errorf("got %s", out.String())
	}
}
