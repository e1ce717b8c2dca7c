// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"encoding/xml"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// drawn returns the lines of text of a picture.
func drawn(t *testing.T, file string) (lines []string) {
	t.Helper()
	var picture struct {
		Texts []struct {
			Text  string   `xml:",chardata"`
			Spans []string `xml:"tspan"`
		} `xml:"text"`
	}
	if err := xml.Unmarshal([]byte(read(t, file)), &picture); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, text := range picture.Texts {
		lines = append(lines, text.Text+strings.Join(text.Spans, ""))
	}
	return lines
}

// The recording of the demo is of the demo that a test compares with today's.
func TestDemoPicture(t *testing.T) {
	_, transcript, _ := strings.Cut(read(t, "concepts.md"), "```console\n$ make demo\n")
	transcript, _, _ = strings.Cut(transcript, "```")
	figures := regexp.MustCompile(`(?m)^ +\d+ µs|decided in \d+`)
	want := strings.Split(strings.TrimSuffix(figures.ReplaceAllString(transcript, ""), "\n"), "\n")
	got := strings.Split(figures.ReplaceAllString(strings.Join(drawn(t, "demo.svg"), "\n"), ""), "\n")
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 15 {
		t.Errorf("`make demo RECORD=docs` records it (-transcript +picture):\n%s", diff)
	}
}

// The times of the picture are of one run: they go on from one step to the next.
func TestPicture(t *testing.T) {
	last, steps := -1.0, 0
	for _, line := range drawn(t, "picture.svg") {
		at, err := strconv.ParseFloat(line, 64)
		if err != nil {
			continue
		}
		if at <= last {
			t.Errorf("%.1f comes after %.1f", at, last)
		}
		last, steps = at, steps+1
	}
	if steps != 6 {
		t.Errorf("%d times", steps)
	}
}
