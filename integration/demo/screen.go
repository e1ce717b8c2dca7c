// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"html"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// style is how a part of a line looks.
type style string

const (
	plain  style = "plain"
	strong style = "strong"
	dim    style = "dim"
	bad    style = "bad"
	good   style = "good"
)

// codes are those of a terminal.
var codes = map[style]string{strong: "\x1b[1m", dim: "\x1b[36m", bad: "\x1b[1;31m", good: "\x1b[1;32m"}

const reset = "\x1b[0m"

// screen writes lines as they come, in colour on a terminal, and remembers them with their time.
type screen struct {
	out    *os.File
	colour bool
	began  time.Time
	lines  []line
}

type line struct {
	at    time.Duration
	parts []part
}

type part struct {
	style style
	text  string
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &screen{out: out, colour: terminal && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

func (s *screen) head(text string) {
	s.write()
	s.write(part{strong, text})
}

func (s *screen) say(format string, args ...any) {
	s.write(part{plain, "   " + fmt.Sprintf(format, args...)})
}

func (s *screen) code(text string) { s.write(part{dim, "   " + text}) }

func (s *screen) verdict(how style, word, text string) {
	s.write(part{how, fmt.Sprintf("   %-7s", word)}, part{plain, " " + text})
}

func (s *screen) write(parts ...part) {
	s.lines = append(s.lines, line{time.Since(s.began), parts})
	for _, p := range parts {
		if code := codes[p.style]; code != "" && s.colour {
			fmt.Fprint(s.out, code, p.text, reset)
		} else {
			fmt.Fprint(s.out, p.text)
		}
	}
	fmt.Fprintln(s.out)
}

// Sizes in pixels.
const (
	charWidth  = 7.3
	lineHeight = 18
	edge       = 16
)

// svg is the recording: each line comes when it came. Where motion is not wanted all are there at once.
func (s *screen) svg() string {
	longest := 0
	var text strings.Builder
	for i, l := range s.lines {
		fmt.Fprintf(&text, `<text y="%d" style="animation-delay: %.2fs">`, edge+lineHeight*(i+1), l.at.Seconds())
		n := 0
		for j, p := range l.parts {
			x := ""
			if j == 0 {
				x = fmt.Sprintf(` x="%d"`, edge)
			}
			fmt.Fprintf(&text, `<tspan%s class="%s">%s</tspan>`, x, p.style, html.EscapeString(p.text))
			n += utf8.RuneCountInString(p.text)
		}
		text.WriteString("</text>\n")
		longest = max(longest, n)
	}
	width, height := float64(longest)*charWidth+2*edge, lineHeight*(len(s.lines)+1)+2*edge
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d" role="img">
<title>make demo, recorded</title>
<style>
rect { fill: #15191e; } text { font: 12px ui-monospace, monospace; white-space: pre; fill: #e4e8ec; }
.strong { font-weight: bold; fill: #ffffff; } .dim { fill: #7fd1de; } .bad { font-weight: bold; fill: #ff7b86; } .good { font-weight: bold; fill: #5fd07a; }
@media (prefers-reduced-motion: no-preference) { text { opacity: 0; animation: come 0.2s forwards; } }
@keyframes come { to { opacity: 1; } }
</style>
<rect width="100%%" height="100%%" rx="8"/>
%s</svg>
`, width, height, width, height, text.String())
}
