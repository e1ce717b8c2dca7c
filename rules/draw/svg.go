// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"fmt"
	"html"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Sizes in pixels. The font has a fixed width.
const (
	charWidth   = 6.7
	lineHeight  = 16
	padding     = 8
	columnGap   = 110
	boxGap      = 18
	margin      = 24
	longestText = 92 // characters of a rule; the whole of it is in the tooltip
)

// style is for light and dark. Where a way is lit, everything else is dimmed.
const style = `
svg { font: 11px ui-monospace, monospace; --paper: #ffffff; --ink: #1c2128; --dim: #6a737d; --box: #f4f6f8; --line: #c4ccd4;
  --onward: #7d8894; --proxy: #0b63c4; --around: #b35900; --lost: #c0182b; --lit: #fff3bf; }
@media (prefers-color-scheme: dark) { svg { --paper: #15191e; --ink: #e4e8ec; --dim: #98a2ad; --box: #1f252c; --line: #46505b;
  --onward: #8b96a2; --proxy: #6cb2ff; --around: #ffa552; --lost: #ff7b86; --lit: #4b4212; } }
.paper { fill: var(--paper); } text { fill: var(--ink); white-space: pre; } .title { font: bold 16px sans-serif; } .line { font: 12px sans-serif; }
.family { font: bold 13px sans-serif; } .name { font-weight: bold; } .dim { fill: var(--dim); }
.box { fill: var(--box); stroke: var(--line); } .lit > .box { stroke: var(--ink); stroke-width: 2; } .bar { fill: var(--lit); }
.edge { fill: none; stroke-width: 1.2; } .far .edge { opacity: 0.25; } .edge.lit { opacity: 1; stroke-width: 2.6; }
.edge.onward { stroke: var(--onward); } .edge.proxy { stroke: var(--proxy); } .edge.around { stroke: var(--around); stroke-dasharray: 5 3; }
.edge.lost { stroke: var(--lost); } text.proxy { fill: var(--proxy); } text.around { fill: var(--around); } text.lost { fill: var(--lost); }
`

// SVG returns the picture as a document of its own. It has no script, and every text is escaped.
func (p Picture) SVG() string {
	c := canvas{far: p.Way != nil}
	c.y = margin + 14
	c.text(margin, c.y, "title", p.Title)
	for _, line := range p.Lines {
		c.y += lineHeight + 4
		c.text(margin, c.y, "line", line)
	}
	for _, s := range p.sheets() {
		c.y += 2 * lineHeight
		c.text(margin, c.y, "family", s.title)
		c.y += lineHeight
		c.sheet(s)
	}
	if len(p.Around) > 0 {
		c.y += 2 * lineHeight
		c.text(margin, c.y, "family", "What does not go through the proxy")
		for _, line := range p.Around {
			c.y += lineHeight + 2
			c.text(margin, c.y, "line around", "- "+line)
		}
	}
	height := c.y + margin
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n"+
		"<title>%s</title>\n<style>%s</style>\n<rect class=\"paper\" width=\"100%%\" height=\"100%%\"/>\n%s</svg>\n",
		c.width+margin, height, c.width+margin, height, escape(p.Title), style, c.out.String())
}

// canvas is what has been drawn.
type canvas struct {
	out      strings.Builder
	y, width float64
	far      bool // some way is lit, and the others step back
}

// placed is a box with its place.
type placed struct {
	*box
	x, y, width float64
}

func (p placed) height() float64 { return float64(len(p.rows)+1)*lineHeight + 2*padding }

// row returns the middle of a row.
func (p placed) row(i int) float64 { return p.y + padding + (float64(i)+1.5)*lineHeight }

func (c *canvas) sheet(s sheet) {
	all := arrange(s.boxes, c.y)
	if c.far {
		c.out.WriteString("<g class=\"far\">\n")
	} else {
		c.out.WriteString("<g>\n")
	}
	for _, b := range s.boxes {
		from := all[b.id]
		if to, there := all[b.after]; there {
			c.line(from.x+20, from.y+from.height(), to.x+20, to.y, b.lit && to.lit)
		}
		for i, r := range b.rows {
			if to, there := all[r.to]; there {
				c.curve(from.x+from.width, from.row(i), to.x, to.row(-1), r.kind, r.lit)
			}
		}
	}
	c.out.WriteString("</g>\n")
	bottom := c.y
	for _, b := range s.boxes {
		at := all[b.id]
		c.box(at)
		bottom, c.width = max(bottom, at.y+at.height()), max(c.width, at.x+at.width)
	}
	c.y = bottom
}

// arrange puts each box into its column, at the height of what leads there and below the boxes placed before.
func arrange(boxes []*box, top float64) map[string]placed {
	var widths []float64
	for _, b := range boxes {
		for len(widths) <= b.column {
			widths = append(widths, 0)
		}
		widths[b.column] = max(widths[b.column], b.width())
	}
	all, wanted := map[string]placed{}, map[string]float64{}
	x := float64(margin)
	for column, width := range widths {
		free := top
		for _, b := range boxes {
			if b.column != column {
				continue
			}
			at := placed{box: b, x: x, y: max(free, wanted[b.id]), width: width}
			all[b.id], free = at, at.y+at.height()+boxGap
			for i, r := range b.rows {
				if _, known := wanted[r.to]; !known {
					wanted[r.to] = at.row(i) - at.row(-1) + at.y
				}
			}
		}
		x += width + columnGap
	}
	return all
}

// width is that of the longest line.
func (b *box) width() float64 {
	longest := utf8.RuneCountInString(b.title)
	for _, r := range b.rows {
		longest = max(longest, utf8.RuneCountInString(shortened(r.text))+2+utf8.RuneCountInString(r.target))
	}
	return float64(longest)*charWidth + 2*padding
}

func (c *canvas) box(b placed) {
	lit := ""
	if b.lit {
		lit = ` class="lit"`
	}
	fmt.Fprintf(&c.out, "<g%s><rect class=\"box\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"5\"/>\n", lit, b.x, b.y, b.width, b.height())
	c.text(b.x+padding, b.row(-1)+4, "name "+string(b.kind), b.title)
	for i, r := range b.rows {
		if r.lit {
			fmt.Fprintf(&c.out, "<rect class=\"bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/>", b.x+2, b.row(i)-lineHeight/2, b.width-4, lineHeight)
		}
		fmt.Fprintf(&c.out, "<g><title>%s</title>", escape(strings.TrimSpace(r.text+" -> "+r.target)+": "+r.why))
		class := ""
		if b.kind != "" || r.text == "else" {
			class = "dim"
		}
		c.text(b.x+padding, b.row(i)+4, class, shortened(r.text))
		if r.target != "" {
			at := b.x + b.width - padding - float64(utf8.RuneCountInString(r.target))*charWidth
			c.text(at, b.row(i)+4, string(r.kind), r.target)
		}
		c.out.WriteString("</g>\n")
	}
	c.out.WriteString("</g>\n")
}

// curve leads from a rule to a chain, or to where packets end.
func (c *canvas) curve(x1, y1, x2, y2 float64, k kind, lit bool) {
	middle := (x1 + x2) / 2
	fmt.Fprintf(&c.out, "<path class=\"edge %s%s\" d=\"M%.1f %.1f C%.1f %.1f %.1f %.1f %.1f %.1f\"/>\n", k, lighting(lit), x1, y1, middle, y1, middle, y2, x2, y2)
}

// line leads from one table of a hook to the next.
func (c *canvas) line(x1, y1, x2, y2 float64, lit bool) {
	fmt.Fprintf(&c.out, "<path class=\"edge onward%s\" d=\"M%.1f %.1f L%.1f %.1f\"/>\n", lighting(lit), x1, y1, x2, y2)
}

func lighting(lit bool) string {
	if lit {
		return " lit"
	}
	return ""
}

func (c *canvas) text(x, y float64, class, text string) {
	fmt.Fprintf(&c.out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">%s</text>\n", x, y, strings.TrimSpace(class), escape(text))
	c.width = max(c.width, x+float64(utf8.RuneCountInString(text))*charWidth)
}

func shortened(text string) string {
	if utf8.RuneCountInString(text) <= longestText {
		return text
	}
	return string([]rune(text)[:longestText-1]) + "…"
}

// escape makes a stranger's text safe to print.
func escape(text string) string { return html.EscapeString(printable(text)) }

// printable leaves out characters that XML forbids, and line breaks.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}
