// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// JSON writes the report for programs.
func (r Report) JSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(r)
}

// Text writes the report for people: a line for what is as it should be, and more for the rest.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	group := ""
	for _, f := range r.Findings {
		if f.Group != group {
			if group != "" {
				b.WriteString("\n")
			}
			group = f.Group
			b.WriteString(group + "\n")
		}
		f.text(&b)
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (f Finding) text(b *strings.Builder) {
	const label, indent = "  %-8s %s: %s\n", "           "
	fmt.Fprintf(b, label, f.Level, f.Check, strings.ReplaceAll(f.Found, "\n", "\n"+indent))
	if f.Level == OK {
		return
	}
	if f.Do != "" {
		fmt.Fprintf(b, "%sdo:   %s\n", indent, strings.ReplaceAll(f.Do, "\n", "\n"+indent+"      "))
	}
	if f.Source != "" && f.Level != Info {
		fmt.Fprintf(b, "%sfrom: %s\n", indent, f.Source)
	}
}

func (r Report) summary() string {
	counts := fmt.Sprintf("%d ok, %d to know, %d warnings, %d broken", r.Counts[OK], r.Counts[Info], r.Counts[Warning], r.Counts[Broken])
	if n := r.Counts[Unseen]; n > 0 {
		counts += fmt.Sprintf(", %d not seen from here", n)
	}
	switch r.Level {
	case Broken:
		return counts + ": meshnetd does not work here until what is broken is mended"
	case Warning:
		return counts + ": meshnetd works here, and the warnings say what it does not promise"
	case Unseen:
		return counts + ": what is seen from this container is fine"
	case OK, Info:
	}
	return counts + ": this node is fine"
}
