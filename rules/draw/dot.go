// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"fmt"
	"strings"
)

// colours are those of edges and ends, on white and on black.
var colours = map[kind]string{onward: "gray50", proxy: "dodgerblue3", around: "darkorange3", lost: "crimson"}

// DOT returns the picture for Graphviz. A lit way is drawn thick.
func (p Picture) DOT() string {
	var out strings.Builder
	fmt.Fprintf(&out, "digraph meshnetd {\n  rankdir=LR; labelloc=t; label=%s;\n  node [shape=plain, fontname=monospace, fontsize=10];\n",
		quoted(append([]string{p.Title}, p.Lines...)...))
	for n, s := range p.sheets() {
		fmt.Fprintf(&out, "  subgraph cluster_%d {\n    label=%s;\n", n, quoted(s.title))
		name := func(id string) string { return quoted(s.title + " " + id) }
		for _, b := range s.boxes {
			fmt.Fprintf(&out, "    %s [label=<%s>];\n", name(b.id), b.table())
			if b.after != "" {
				fmt.Fprintf(&out, "    %s -> %s [color=%s%s];\n", name(b.id), name(b.after), colours[onward], thick(b.lit))
			}
			for i, r := range b.rows {
				if r.to != "" {
					fmt.Fprintf(&out, "    %s:r%d:e -> %s:name:w [color=%s%s];\n", name(b.id), i, name(r.to), colours[r.kind], thick(r.lit))
				}
			}
		}
		out.WriteString("  }\n")
	}
	out.WriteString("}\n")
	return out.String()
}

// table is the box as a label of Graphviz, with a port for each row.
func (b *box) table() string {
	var out strings.Builder
	border := 1
	if b.lit {
		border = 3
	}
	fmt.Fprintf(&out, `<table border="%d" cellborder="0" cellspacing="0"><tr><td port="name" align="left"><b>%s</b></td></tr>`, border, escape(b.title))
	for i, r := range b.rows {
		text := strings.TrimSpace(shortened(r.text) + "  " + r.target)
		if text = escape(text); r.lit {
			text = "<b>" + text + "</b>"
		}
		fmt.Fprintf(&out, `<tr><td port="r%d" align="left">%s</td></tr>`, i, text)
	}
	out.WriteString("</table>")
	return out.String()
}

func thick(lit bool) string {
	if lit {
		return ", penwidth=3"
	}
	return ""
}

// quoted is a string of DOT, with a line for each text.
func quoted(lines ...string) string {
	var all []string
	for _, line := range lines {
		all = append(all, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(line)))
	}
	return `"` + strings.Join(all, `\n`) + `"`
}
