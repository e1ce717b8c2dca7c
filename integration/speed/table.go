// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"fmt"
	"io"
	"math"
	"time"
)

// nameWidth is the room for a title or a peer's name, in characters.
const nameWidth = 58

// Row is one line of a table.
type Row struct {
	Name                   string
	N                      int // how many samples
	Median, P99            time.Duration
	Quarter, ThreeQuarters time.Duration    // half of the samples lie between; 0 where that is not known
	Halves                 [2]time.Duration // the medians of every other sample, and of the rest; 0 where that is not known
	Note                   string           // printed behind the figures
	Absent                 error            // printed instead of them
}

// Row returns what a table says of the peer.
func (p *Peer) Row() Row {
	return Row{Name: p.Name, N: len(p.Samples), Median: p.Median(), P99: p.P99(), Note: p.Note, Absent: p.Absent,
		Quarter: Quantile(p.Samples, 25), ThreeQuarters: Quantile(p.Samples, 75), Halves: halves(p.Samples)}
}

// halves returns the medians of the even and of the odd samples, which would be the same on a machine without noise.
func halves(samples []time.Duration) (medians [2]time.Duration) {
	for half := range medians {
		var some []time.Duration
		for i := half; i < len(samples); i += 2 {
			some = append(some, samples[i])
		}
		medians[half] = Quantile(some, 50)
	}
	return medians
}

// Rows returns a row for each peer.
func Rows(peers ...*Peer) []Row {
	rows := make([]Row, len(peers))
	for i, p := range peers {
		rows[i] = p.Row()
	}
	return rows
}

// tooBusy is by how much the halves of one row's samples may differ before its table tells nothing.
const tooBusy = 0.1

// Table prints rows below a title, each with the ratio of its median to that of the first that was measured, and says where
// the machine was too busy for the ratios to tell anything.
func Table(w io.Writer, title string, rows ...Row) {
	fmt.Fprintf(w, "\n%-*s %7s  %11s %24s %11s %8s\n", nameWidth, title, "samples", "median", "half of them within", "p99", "ratio")
	base, noise := time.Duration(0), 0.0
	for _, r := range rows {
		if r.N == 0 {
			fmt.Fprintf(w, "  %-*s not measured: %v\n", nameWidth-2, r.Name, r.Absent)
			continue
		}
		if base == 0 {
			base = max(r.Median, 1)
		}
		noise = max(noise, r.noise())
		within := ""
		if r.ThreeQuarters > 0 {
			within = Text(r.Quarter) + " - " + Text(r.ThreeQuarters)
		}
		fmt.Fprintf(w, "  %-*s %7d  %11s %24s %11s %8.3f", nameWidth-2, r.Name, r.N, Text(r.Median), within, Text(r.P99), float64(r.Median)/float64(base))
		if r.Note != "" {
			fmt.Fprintf(w, "  %s", r.Note)
		}
		fmt.Fprintln(w)
	}
	if noise > tooBusy {
		fmt.Fprintf(w, "  too busy to tell: every other sample and the rest of the same row differ by %.0f %%\n", 100*noise)
	}
}

// noise is by which part of its median the halves of the row's samples differ.
func (r Row) noise() float64 {
	if r.Median == 0 || r.Halves[1] == 0 {
		return 0
	}
	return math.Abs(float64(r.Halves[0]-r.Halves[1])) / float64(r.Median)
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
