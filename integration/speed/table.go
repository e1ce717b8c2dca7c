// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"fmt"
	"io"
	"time"
)

// nameWidth is the room for a title or a peer's name, in characters.
const nameWidth = 58

// Row is one line of a table.
type Row struct {
	Name        string
	N           int // how many samples
	Median, P99 time.Duration
	Note        string // printed behind the figures
	Absent      error  // printed instead of them
}

// Row returns what a table says of the peer.
func (p *Peer) Row() Row {
	return Row{Name: p.Name, N: len(p.Samples), Median: p.Median(), P99: p.P99(), Note: p.Note, Absent: p.Absent}
}

// Rows returns a row for each peer.
func Rows(peers ...*Peer) []Row {
	rows := make([]Row, len(peers))
	for i, p := range peers {
		rows[i] = p.Row()
	}
	return rows
}

// Table prints rows below a title, each with the ratio of its median to that of the first that was measured.
func Table(w io.Writer, title string, rows ...Row) {
	fmt.Fprintf(w, "\n%-*s %7s  %11s %11s %8s\n", nameWidth, title, "samples", "median", "p99", "ratio")
	base := time.Duration(0)
	for _, r := range rows {
		if r.N == 0 {
			fmt.Fprintf(w, "  %-*s not measured: %v\n", nameWidth-2, r.Name, r.Absent)
			continue
		}
		if base == 0 {
			base = max(r.Median, 1)
		}
		fmt.Fprintf(w, "  %-*s %7d  %11s %11s %8.3f", nameWidth-2, r.Name, r.N, Text(r.Median), Text(r.P99), float64(r.Median)/float64(base))
		if r.Note != "" {
			fmt.Fprintf(w, "  %s", r.Note)
		}
		fmt.Fprintln(w)
	}
}

// Text prints a duration with the unit that suits it, s, ms, µs or ns, and three or more digits.
func Text(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.3f s", d.Seconds())
	case d >= 100*time.Microsecond:
		return fmt.Sprintf("%.3f ms", float64(d)/float64(time.Millisecond))
	case d >= 10*time.Microsecond:
		return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
	}
	return fmt.Sprintf("%d ns", d.Nanoseconds())
}
