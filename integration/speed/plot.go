// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
	"time"
)

// Bar is a figure with what half of its samples lie between, which is drawn as a whisker where it is known.
type Bar struct {
	Name                          string
	Median, Quarter, ThreeQuarter float64
}

// Bars returns the rows that were measured, in milliseconds.
func Bars(rows ...Row) (bars []Bar) {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, r := range rows {
		if r.N > 0 {
			bars = append(bars, Bar{r.Name, ms(r.Median), ms(r.Quarter), ms(r.ThreeQuarters)})
		}
	}
	return bars
}

// Line is a series of figures over the same numbers of something.
type Line struct {
	Name   string
	Points []Point
}

// Point is one figure of a line.
type Point struct{ X, Y float64 }

// The measures of a plot, in pixels.
const (
	width, margin   = 760.0, 12.0
	textHeight      = 14.0
	barHeight       = 22.0
	names           = 300.0 // room for those of bars
	figures         = 90.0  // room behind bars
	plotHeight      = 300.0
	axis            = 70.0 // room for the figures at an axis
	pointRadius     = 3.5
	legendLine      = 18.0
	roomBelowPoints = 40.0
)

// colours are told apart by people who do not see all of them.
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"}

// DrawBars returns a picture (SVG) of figures below each other, all from zero.
func DrawBars(title, unit string, bars []Bar) string {
	most := 0.0
	for _, b := range bars {
		most = max(most, b.Median, b.ThreeQuarter)
	}
	d := newDrawing(2*margin+2*textHeight+barHeight*float64(len(bars)), title+" ("+unit+")")
	scale := (width - 2*margin - names - figures) / most
	for i, b := range bars {
		y := margin + 2*textHeight + barHeight*float64(i)
		middle, left := y+barHeight/2, margin+names
		d.text(margin, middle, "start", b.Name)
		d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, left, y+3, b.Median*scale, barHeight-6, colours[0])
		end := b.Median
		if b.ThreeQuarter > 0 {
			d.line(left+b.Quarter*scale, middle, left+b.ThreeQuarter*scale, middle, "#000")
			end = max(end, b.ThreeQuarter)
		}
		d.text(left+end*scale+6, middle, "start", figure(b.Median))
	}
	return d.String()
}

// DrawLines returns a picture (SVG) of lines over a logarithmic axis; their figures begin at zero.
func DrawLines(title, over, unit string, lines []Line) string {
	low, high, most := math.Inf(1), 1.0, 0.0
	for _, l := range lines {
		for _, p := range l.Points {
			low, high, most = min(low, max(p.X, 1)), max(high, p.X), max(most, p.Y)
		}
	}
	top := margin + 2*textHeight
	d := newDrawing(top+plotHeight+roomBelowPoints+legendLine*float64(len(lines))+margin, title+" ("+unit+")")
	x := func(v float64) float64 {
		return margin + axis + (width-2*margin-2*axis)*math.Log(max(v, 1)/low)/max(math.Log(high/low), 1e-9)
	}
	y := func(v float64) float64 { return top + plotHeight*(1-v/most) }
	d.line(margin+axis, y(0), width-margin-axis, y(0), "#888")
	d.text(width-margin, y(0)+2*textHeight, "end", over)
	for i := range 5 {
		v := most * float64(i) / 4
		d.line(margin+axis-4, y(v), margin+axis, y(v), "#888")
		d.text(margin+axis-8, y(v), "end", figure(v))
	}
	marked := map[float64]bool{}
	for i, l := range lines {
		colour := colours[i%len(colours)]
		for j, p := range l.Points {
			if j > 0 {
				d.line(x(l.Points[j-1].X), y(l.Points[j-1].Y), x(p.X), y(p.Y), colour)
			}
			d.add(`<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>`, x(p.X), y(p.Y), pointRadius, colour)
			if !marked[p.X] {
				marked[p.X] = true
				d.text(x(p.X), y(0)+textHeight, "middle", fmt.Sprintf("%g", p.X))
			}
		}
		at := top + plotHeight + roomBelowPoints + legendLine*float64(i)
		d.line(margin+axis, at, margin+axis+24, at, colour)
		d.text(margin+axis+32, at, "start", l.Name)
	}
	return d.String()
}

// figure prints a number with three digits.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// drawing is an SVG in the making.
type drawing struct{ strings.Builder }

func newDrawing(height float64, title string) *drawing {
	d := &drawing{}
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`, width, height)
	d.add(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	d.text(margin, margin+textHeight/2, "start", title)
	return d
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

func (d *drawing) line(x1, y1, x2, y2 float64, colour string) {
	d.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1.5"/>`, x1, y1, x2, y2, colour)
}

func (d *drawing) text(x, y float64, anchor, text string) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text)) // a strings.Builder never fails
	d.add(`<text x="%.1f" y="%.1f" text-anchor="%s" dominant-baseline="middle">%s</text>`, x, y, anchor, escaped.String())
}

// String ends it.
func (d *drawing) String() string { return d.Builder.String() + "</svg>\n" }
