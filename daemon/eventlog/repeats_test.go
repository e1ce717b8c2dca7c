// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// line is that of a pod that is refused.
func line(message string) Line {
	return Line{Level: slog.LevelError, Message: message, Pod: "shop/web", Event: "pod_blocked", At: time.Unix(1_000_000, 0)}
}

func TestRepeats(t *testing.T) {
	web := line("a")
	other, changed, refused, container := web, web, web, web
	other.Pod, changed.Message, refused.Reason, container.Container = "shop/other", "b", "bad_input", "app"
	well, late, found, repaired, skipped := web, web, web, web, web
	well.Level, well.Event, skipped.Level, skipped.Event = slog.LevelInfo, "pod_protected", slog.LevelDebug, "pod_skipped"
	late.Level, late.Event, repaired.Level, repaired.Event, found.Event = slog.LevelWarn, "pod_late", slog.LevelWarn, "drift_repaired", "drift_found"
	type step struct {
		after time.Duration // the one before
		line  Line
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
				step.line.At = now
				left, news := r.news(step.line)
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
	for i := range 3 {
		id, path, ns := fmt.Sprintf("%064d", i), fmt.Sprintf("/run/netns/cni-%d", i), fmt.Sprintf("net:[%d]", 4026531840+i)
		l := line(fmt.Sprintf("sandbox %s: open %s (%s): no such file", id, path, ns))
		l.Own = []string{id, "", path, ns}
		if _, news := r.news(l); news != (i == 0) {
			t.Errorf("try %d: news is %v", i, news)
		}
	}
}

// Neither many pods nor one with an error that never is the same may fill the memory.
func TestRepeatsAreBounded(t *testing.T) {
	var r repeats
	at := func(message string, after time.Duration) (int, bool) {
		l := line(message)
		l.At = time.Unix(1_000_000, 0).Add(after)
		return r.news(l)
	}
	for i := range mostRepeats + 10 {
		at(fmt.Sprint(i), time.Duration(i)*time.Millisecond)
	}
	if n := len(r.lines); n != mostRepeats {
		t.Errorf("%d lines are remembered", n)
	}
	if _, news := at(fmt.Sprint(mostRepeats+9), 2*time.Second); news {
		t.Error("the last one is forgotten")
	}
	if _, news := at("0", 2*time.Second); !news {
		t.Error("the oldest one is not forgotten")
	}
}
