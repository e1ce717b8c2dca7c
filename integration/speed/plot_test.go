// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestPlotsAreXMLWithEveryFigure(t *testing.T) {
	quarters := Row{Name: "a & b", N: 3, Median: 2 * time.Millisecond, Quarter: time.Millisecond, ThreeQuarters: 3 * time.Millisecond}
	bars := DrawBars("hooks", "ms", Bars(quarters, Row{Name: "absent"}, Row{Name: "c", N: 1, Median: 150 * time.Millisecond}))
	lines := DrawLines("packets", "ranges", "µs", []Line{{"iptables", []Point{{0, 1}, {40, 2}, {1000, 11.2}}}, {"nftables", []Point{{0, 1}, {1000, 1.01}}}})
	for text, want := range map[string][]string{
		bars:  {"hooks (ms)", "a &amp; b", ">2.00<", ">150<"},
		lines: {"packets (µs)", ">ranges<", ">1000<", ">iptables<", ">nftables<", ">11.2<"},
	} {
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("there is no %q in\n%s", w, text)
			}
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "absent") {
			t.Error(text)
		}
		d := xml.NewDecoder(strings.NewReader(text))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
		}
	}
	if n := strings.Count(bars, "<rect"); n != 3 { // with the ground
		t.Errorf("%d rectangles", n)
	}
	if n := strings.Count(lines, "<circle"); n != 5 {
		t.Errorf("%d points", n)
	}
}
