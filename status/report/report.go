// SPDX-License-Identifier: Apache-2.0

// Package report writes what a node's meshnetd tells as one page for a ticket or an audit. The page is whole in itself and
// has no script. Names and reasons on it are strangers' texts: the template escapes each where it stands.
package report

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/status"
)

// Report is what was asked of one node.
type Report struct {
	Node    string
	Written time.Time
	Status  status.Status
	Pods    []Pod
}

// Pod is what was asked about a sandbox.
type Pod struct {
	status.Sandbox
	Explanation *status.Explanation // nil where there was no answer
	Verdict     *status.Verdict
	Error       string // why there was none
}

//go:embed page.html.tmpl
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"plain": status.Plain, "time": status.Moment, "titled": titled}).Parse(page))

// HTML returns the page.
func (r Report) HTML() ([]byte, error) {
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, r); err != nil {
		return nil, fmt.Errorf("write the report: %w", err)
	}
	return out.Bytes(), nil
}

// Attention is what somebody should look at, in sentences.
func (r Report) Attention() []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	s := r.Status
	switch {
	case !s.Connected:
		say("There is no session with the runtime.")
	case !s.Synchronized:
		say("The pods that were there before the session are not all taken over.")
	}
	if s.Rejected != "" {
		say("The configuration on disk is not in force: %s", s.Rejected)
	}
	if rt := s.Runtime; rt != nil && rt.Tier != "guaranteed" {
		say("The tier is %q: %s", rt.Tier, rt.Why)
	}
	for _, p := range r.Pods {
		name := p.Namespace + "/" + p.Name
		if p.State != "protected" && p.State != "exempt" && p.State != "skipped" {
			say("%s is %s: %s", name, p.State, p.Detail)
		}
		if v := p.Verdict; v != nil && (v.Result == status.Different || v.Result == status.Failed) {
			say("%s does not hold its rules now: %s", name, cmp.Or(strings.Join(v.Differences, "; "), v.Detail))
		}
		if p.Drift.Times > 0 {
			say("The rules of %s were found changed %d times, last at %s.", name, p.Drift.Times, status.Moment(p.Drift.Last))
		}
		if p.Error != "" {
			say("%s could not be asked about: %s", name, p.Error)
		}
	}
	return all
}

// Gap is traffic that does not go through the proxy, and the pods of which that is so.
type Gap struct {
	What string
	Pods []string
}

// Gaps are those of all pods, the commonest first.
func (r Report) Gaps() []Gap {
	pods := map[string][]string{}
	for _, p := range r.Pods {
		if p.Explanation == nil {
			continue
		}
		for _, gap := range p.Explanation.NotCaptured {
			pods[gap.What] = append(pods[gap.What], p.Namespace+"/"+p.Name)
		}
	}
	var all []Gap
	for _, what := range slices.Sorted(maps.Keys(pods)) {
		all = append(all, Gap{what, pods[what]})
	}
	slices.SortStableFunc(all, func(a, b Gap) int { return len(b.Pods) - len(a.Pods) })
	return all
}

// Plot is bars below each other.
type Plot struct {
	Title string
	Bars  []Bar
}

func titled(title string, bars []Bar) Plot { return Plot{title, bars} }

// Height is in pixels.
func (p Plot) Height() int { return max(1, len(p.Bars)) * barHeight }

// Bar is one bar of a plot.
type Bar struct {
	Label        string
	Count, Width int // Width is of 100 at most
	Y            int // of its upper edge
}

// Sizes in pixels.
const (
	barHeight = 20
	barStart  = 150 // right of the labels
	barScale  = 2
)

// Pixels is how long the bar is.
func (b Bar) Pixels() int { return barScale * b.Width }

// After is where there is room for the count.
func (b Bar) After() int { return barStart + b.Pixels() + 6 }

// bars makes the longest one 100 wide, and none that counts something invisible.
func bars(labels []string, counts []int) []Bar {
	var all []Bar
	most := max(1, slices.Max(append(slices.Clone(counts), 0)))
	for i, label := range labels {
		b := Bar{Label: label, Count: counts[i], Width: counts[i] * 100 / most, Y: i * barHeight}
		if b.Count > 0 {
			b.Width = max(b.Width, 1)
		}
		all = append(all, b)
	}
	return all
}

// Outcomes counts pods by their state.
func (r Report) Outcomes() []Bar { return counted(r.Pods, func(p Pod) string { return p.State }) }

// Meshes counts pods by their mesh.
func (r Report) Meshes() []Bar {
	return counted(r.Pods, func(p Pod) string { return cmp.Or(p.Mesh, "none") })
}

func counted(pods []Pod, by func(Pod) string) []Bar {
	n := map[string]int{}
	for _, p := range pods {
		n[by(p)]++
	}
	return sorted(n)
}

// Events counts what happened since the daemon's start.
func (r Report) Events() []Bar { return sorted(r.Status.Events) }

func sorted(n map[string]int) []Bar {
	labels := slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(n[b]-n[a], cmp.Compare(a, b)) })
	counts := make([]int, len(labels))
	for i, label := range labels {
		counts[i] = n[label]
	}
	return bars(labels, counts)
}

// limits are where the bars of Times end.
var limits = []time.Duration{500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

// Times counts pods by the time of the work that led to their state.
func (r Report) Times() []Bar {
	counts := make([]int, len(limits)+1)
	for _, p := range r.Pods {
		i, _ := slices.BinarySearch(limits, time.Duration(p.Took))
		counts[i]++
	}
	var labels []string
	for _, limit := range limits {
		labels = append(labels, "to "+limit.String())
	}
	return bars(append(labels, "more"), counts)
}
