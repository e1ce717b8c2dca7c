// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// mostShown is how many of the recent events the text has.
const mostShown = 5

// Text writes the status for people as of now: the node, the counts, the last events, then a line for each sandbox.
// Times are UTC.
func (s Status) Text(w io.Writer, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, line := range s.summary() {
		row(t, line...)
	}
	// Each table has columns of its own.
	_ = t.Flush() // fails only where the reader has gone
	if last := s.Recent[max(0, len(s.Recent)-mostShown):]; len(last) > 0 {
		fmt.Fprintln(w)
		row(t, "LAST EVENTS", "EVENT", "POD", "MESH", "REASON", "MESSAGE")
		for _, e := range last {
			row(t, Moment(e.Time), e.Event, e.Namespace+"/"+e.Name, e.Mesh, e.Reason, e.Message)
		}
		_ = t.Flush()
	}
	if len(s.Sandboxes) == 0 {
		return
	}
	fmt.Fprintln(w)
	row(t, "POD", "OUTCOME", "MESH", "REASON", "PLAN", "BACKEND", "AGE", "TOOK", "DRIFT", "SANDBOX", "DETAIL")
	for _, sb := range s.Sandboxes {
		row(t, sb.Namespace+"/"+sb.Name, sb.State, sb.Mesh, sb.Reason, short(sb.Plan), sb.Backend, Ago(now, sb.Since), took(sb.Took),
			sb.Drift.text(now), short(sb.ID), sb.News())
	}
	_ = t.Flush()
}

// News is the detail of a sandbox that is not as it should be, has tables of others beside its rules, or may mean other annotations.
func (sb Sandbox) News() string {
	if sb.State == "protected" {
		told := slices.Concat([]string{sb.NotHeld, led("can go around its rules: ", sb.CanBypass), led("loosened by a container: ", sb.Loosened), sb.lockdown()}, sb.Misspelt, sb.Beside)
		return strings.Join(slices.DeleteFunc(told, func(s string) bool { return s == "" }), "; ")
	}
	return sb.Detail
}

// led is a text behind its introduction, and nothing where there is no text.
func led(introduction, text string) string {
	if text == "" {
		return ""
	}
	return introduction + text
}

func (sb Sandbox) lockdown() string {
	var all []string
	for _, l := range sb.Lockdown {
		all = append(all, fmt.Sprintf("%s %s %d", l.Action, l.Class, l.Packets))
	}
	return led("lockdown: ", strings.Join(all, ", "))
}

func (d Drift) text(now time.Time) string {
	if d.Times == 0 {
		return ""
	}
	return fmt.Sprintf("%d, %s ago", d.Times, Ago(now, d.Last))
}

// Ago is how long something has been, as roughly as people say it.
func Ago(now, then time.Time) string {
	d := max(0, now.Sub(then))
	switch {
	case then.IsZero():
		return ""
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

func (s Status) summary() [][]string {
	session := "not connected"
	if s.Connected {
		session = "connected"
	}
	if !s.Since.IsZero() {
		session += " since " + Moment(s.Since)
	}
	if s.Connected && !s.Synchronized {
		session += ", not synchronized yet"
	}
	lines := [][]string{{"meshnetd", s.Version + ", running since " + Moment(s.Started)}}
	if rt := s.Runtime; rt != nil {
		lines = append(lines, []string{"runtime", rt.Name + " " + rt.Version + ", " + session}, []string{"tier", rt.Tier + ": " + rt.Why},
			[]string{"hooks", hooks(*rt)})
		for _, limit := range rt.Limits {
			lines = append(lines, []string{"limit", limit})
		}
	} else {
		lines = append(lines, []string{"runtime", "not known yet, " + session})
	}
	lines = append(lines, []string{"source", s.Kubelet.source()})
	if w := s.Waiting; w != nil && !s.Connected {
		lines = append(lines, []string{"waiting", w.Why})
	}
	if s.Rejected != "" {
		lines = append(lines, []string{"configuration", "what is on disk is bad and not in force: " + s.Rejected})
	}
	lines = append(lines, []string{"backend", s.Backend}, []string{"pods", counts(s.Pods)}, []string{"events", counts(s.Events)})
	if a := s.Audit; a != nil {
		lines = append(lines, []string{"audit", fmt.Sprintf("%s: %d pods in %s, %d drifted", Moment(a.Last), a.Pods, a.Took, a.Drifted)})
	}
	return lines
}

// source says by whom pods are known.
func (k *Kubelet) source() string {
	switch {
	case k == nil:
		return "nri"
	case k.Condition == "absent":
		return "nri; no kubelet's Pods API at " + k.Socket
	}
	text := "nri + kubelet, " + k.Condition
	if k.Condition == "failing" {
		text = "nri; the kubelet's Pods API fails: " + k.Why + "; still known"
	}
	text += fmt.Sprintf(": %d pods; of those that started %d were known, %d asked for, %d not told", k.Pods, k.Known, k.Asked, k.Unanswered)
	if k.Left > 0 {
		text += fmt.Sprintf("; %d are not kept whole: %s", k.Left, k.LeftWhy)
	}
	return text
}

func hooks(rt Runtime) string {
	sandbox, user := "sandbox, container, start", "the user is not told"
	if rt.Validates {
		sandbox += ", validation"
	}
	if rt.TellsUser {
		user = "the user is told"
	}
	return sandbox + "; " + user
}

// counts prints in the order of names, so that two prints can be compared.
func counts(all map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, all[name]))
	}
	return strings.Join(parts, ", ")
}

// Moment is a time as texts have it; "" is none.
func Moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateTime)
}

func took(m Milliseconds) string {
	if m == 0 {
		return ""
	}
	return m.String()
}

// short is as much of an id as people compare, and as crictl prints.
func short(id string) string { return id[:min(len(id), 13)] }

func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		cells[i] = cmp.Or(Plain(cell), "-")
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// Plain keeps a text in its line and a terminal as it is: a detail can quote what a pod's author wrote.
func Plain(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s))
}
