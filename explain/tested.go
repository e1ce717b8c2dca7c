// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Tested is what became of a packet that was to end somewhere, for people and programs.
type Tested struct {
	Pod         string   `json:"pod"`
	Place       string   `json:"place"` // FILE:LINE
	Expectation string   `json:"expectation"`
	Want        string   `json:"want"`
	Verdict     string   `json:"verdict"`
	Packet      string   `json:"packet,omitempty"`
	Assumed     []string `json:"assumed"` // what was not named
	End         *end     `json:"end,omitempty"`
	Note        string   `json:"note,omitempty"`

	expected Expectation
	path     rules.Path
}

// The verdicts.
const (
	Met       = "ok"
	Elsewhere = "elsewhere"
	Unknown   = "unknown" // nobody can tell
)

// Test traces the packets of an expectation in a pod: of one without an address, one for each family.
func (e Expectation) Test(s Scene) (all []Tested) {
	for _, q := range e.questions(s.Plan, s.Interfaces) {
		t := Tested{Pod: s.Pod, Place: e.Place, Expectation: e.Text, Want: e.Want, Assumed: []string{}, expected: e}
		path, assumed, err := q.Path(s.Plan, s.Interfaces)
		if err != nil {
			t.Untold(inSentence.Replace(err.Error()))
			all = append(all, t)
			continue
		}
		for _, text := range assumed {
			t.Assumed = append(t.Assumed, inSentence.Replace(text))
		}
		t.path = path
		if t.ended(Ending(path)); t.Verdict != Met {
			t.Note = strings.Join(s.about(path.Packet), "; ")
		}
		all = append(all, t)
	}
	return all
}

// Sendable is the packet that was traced; one without a protocol is none.
func (t *Tested) Sendable() rules.Packet { return t.path.Packet }

// Sent replaces what the rules say by where the packet was seen to end.
func (t *Tested) Sent(p rules.Packet, seen rules.End, note string) {
	t.path.Packet, t.path.End, t.Note = p, seen, note
	t.ended(seen.String())
}

// Untold is that nobody can tell, and why.
func (t *Tested) Untold(why string) { t.Verdict, t.End, t.Note = Unknown, nil, why }

func (t *Tested) ended(text string) {
	if t.Verdict = Elsewhere; t.expected.meets(t.path.End) {
		t.Verdict = Met
	}
	t.Packet, t.End = t.path.Packet.String(), endOf(t.path, text)
}

// PrintTested writes a line for each packet, more for those that did not end as they should, and a summary.
func PrintTested(w io.Writer, all []Tested) error {
	var out strings.Builder
	n := CountTested(all)
	for _, t := range all {
		fmt.Fprintf(&out, "%-9s  %s: %s\n", t.Verdict, t.Expectation, t.Want)
		if t.Verdict != Met {
			fmt.Fprintf(&out, "    %s, in pod %s\n", t.Place, t.Pod)
		}
		if t.Verdict == Elsewhere {
			fmt.Fprintf(&out, "    %s\n    ends: %s\n", t.Packet, t.End.Text)
		}
		if t.Note != "" {
			fmt.Fprintf(&out, "    %s\n", t.Note)
		}
	}
	fmt.Fprintf(&out, "%d packets: %d ended as expected, %d elsewhere", len(all), n[Met], n[Elsewhere])
	if n[Unknown] > 0 {
		fmt.Fprintf(&out, ", %d unknown", n[Unknown])
	}
	_, err := io.WriteString(w, PlainLines(out.String()+"\n"))
	return err
}

// CountTested returns how many have each verdict.
func CountTested(all []Tested) map[string]int {
	n := map[string]int{}
	for _, t := range all {
		n[t.Verdict]++
	}
	return n
}
