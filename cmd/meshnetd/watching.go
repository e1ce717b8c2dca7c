// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
)

// watchStatus shows the status again and again until the command is interrupted, which is no failure. Without a
// daemon it fails at first; later it says so and tries again, since a restart is among what one watches.
func watchStatus(c *cobra.Command, ask asking, pause time.Duration, show func(status.Status) (string, error)) error {
	screen := newScreen(c.OutOrStdout())
	ticks := time.NewTicker(pause)
	defer ticks.Stop()
	for first := true; ; first = false {
		_, s, err := ask.status(c.Context())
		switch {
		case c.Context().Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil:
			err = screen.sorry(c.ErrOrStderr(), err)
		default:
			var text string
			if text, err = show(s); err == nil {
				err = screen.draw(text)
			}
		}
		if err != nil {
			return &exit{exitFailed, err}
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-ticks.C:
		}
	}
}

// screen draws over what it drew, on a terminal; elsewhere it writes one text after the other.
type screen struct {
	out   io.Writer
	size  func() (columns, rows int, ok bool) // ok is false where this is no terminal
	drawn bool
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, size: func() (int, int, bool) { return 0, 0, false }}
	if file, ok := out.(*os.File); ok {
		s.size = func() (int, int, bool) {
			window, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
			if err != nil {
				return 0, 0, false
			}
			return int(window.Col), int(window.Row), true
		}
	}
	return s
}

// The sequences of ECMA-48 that are used. The terminal is left in no other mode than it was in.
const (
	home      = "\x1b[H"
	clear     = "\x1b[2J"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
)

func (s *screen) draw(text string) error {
	columns, rows, terminal := s.size()
	var out strings.Builder
	switch {
	case terminal:
		if out.WriteString(home); !s.drawn {
			out.WriteString(clear)
		}
		for _, line := range fit(text, columns, rows) {
			out.WriteString(line + clearLine + "\n")
		}
		out.WriteString(clearRest)
	case s.drawn && strings.Count(text, "\n") > 1:
		out.WriteString("\n" + text)
	default:
		out.WriteString(text)
	}
	s.drawn = true
	_, err := io.WriteString(s.out, out.String())
	return err
}

// sorry says what went wrong beside the table, which stays as it is.
func (s *screen) sorry(aside io.Writer, problem error) error {
	if _, _, terminal := s.size(); terminal {
		return s.draw("meshnetd: " + explain.PlainLines(problem.Error()) + "\nretrying\n")
	}
	_, err := fmt.Fprintln(aside, "meshnetd:", problem)
	return err
}

// fit cuts a text to a window: a line that wraps, or one too many, would scroll what is to be drawn over.
func fit(text string, columns, rows int) []string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows > 1 && len(lines) > rows-1 {
		more := len(lines) - (rows - 2)
		lines = append(lines[:rows-2:rows-2], fmt.Sprintf("... and %d more lines", more))
	}
	for i, line := range lines {
		if columns > 0 && utf8.RuneCountInString(line) > columns {
			lines[i] = string([]rune(line)[:columns])
		}
	}
	return lines
}
