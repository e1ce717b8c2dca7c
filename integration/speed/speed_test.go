// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// told returns a peer that writes down when it is called.
func told(log *[]string, name string) *Peer {
	write := func(what string) func() error {
		return func() error { *log = append(*log, what+name); return nil }
	}
	return &Peer{Name: name, Prepare: write("prepare "), Do: write("")}
}

func TestInterleaveTakesTurns(t *testing.T) {
	var log []string
	a, b, c := told(&log, "a"), told(&log, "b"), told(&log, "c")
	b.Prepare, c.Absent = nil, errors.New("not here")
	if err := Interleave(t.Context(), 2, a, b, c); err != nil {
		t.Fatal(err)
	}
	want := "prepare a, a, b, prepare a, b, a, prepare a, a, b"
	if got := strings.Join(log, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := []int{len(a.Samples), len(b.Samples), len(c.Samples)}; !cmp.Equal(got, []int{2, 2, 0}) {
		t.Errorf("numbers of samples are %v: the first round must not count", got)
	}
}

func TestInterleaveDividesByOperations(t *testing.T) {
	do := func() error {
		for began := time.Now(); time.Since(began) < time.Millisecond; {
		}
		return nil
	}
	p := &Peer{Name: "a", Do: do, Per: 1 << 40}
	if err := Interleave(t.Context(), 1, p); err != nil {
		t.Fatal(err)
	}
	if p.Samples[0] != 0 {
		t.Errorf("one of 2^40 operations took %s", p.Samples[0])
	}
}

func TestInterleaveEnds(t *testing.T) {
	wrong := errors.New("wrong")
	fails := func() error { return wrong }
	works := func() error { return nil }
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name string
		ctx  context.Context
		peer Peer
		want error
		says string
	}{
		{"prepare", t.Context(), Peer{Name: "a", Prepare: fails, Do: works}, wrong, "prepare a: wrong"},
		{"do", t.Context(), Peer{Name: "a", Do: fails}, wrong, "measure a: wrong"},
		{"ctx", ended, Peer{Name: "a", Do: works}, context.Canceled, "measure a: context canceled"},
	} {
		err := Interleave(c.ctx, 1, &c.peer)
		if !errors.Is(err, c.want) || err.Error() != c.says {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(c.peer.Samples) > 0 {
			t.Errorf("%s: what failed has samples", c.name)
		}
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i) // 100 to 1
	}
	for _, c := range []struct {
		samples []time.Duration
		percent int
		want    time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{7}, 99, 7},
		{[]time.Duration{3, 1, 2}, 50, 2},
		{hundred, 50, 51},
		{hundred, 99, 100},
		{hundred, 100, 100},
	} {
		if got := Quantile(c.samples, c.percent); got != c.want {
			t.Errorf("%d %% of %d samples: %d, want %d", c.percent, len(c.samples), got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("the samples were sorted in place: their order tells which round they are of")
	}
}

func TestRatios(t *testing.T) {
	// Of a machine that becomes ten times slower, the medians alone would say 1 or 10.
	for _, c := range []struct {
		a, b []time.Duration
		want []float64
	}{
		{[]time.Duration{20, 200, 200, 1}, []time.Duration{10, 100, 100}, []float64{2, 2, 2}},
		{[]time.Duration{30, 10, 20}, []time.Duration{10, 10, 10, 1}, []float64{1, 2, 3}},
		{[]time.Duration{5, 6}, []time.Duration{0, 3}, []float64{2}},
		{nil, []time.Duration{1}, nil},
	} {
		if diff := cmp.Diff(c.want, Ratios(c.a, c.b)); diff != "" {
			t.Errorf("%v to %v: %s", c.a, c.b, diff)
		}
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	Table(&out, "what", Rows(&Peer{Name: "absent", Absent: errors.New("not here")},
		&Peer{Name: "base", Samples: []time.Duration{2 * time.Millisecond}},
		&Peer{Name: "half", Samples: []time.Duration{time.Millisecond, time.Microsecond, 3 * time.Millisecond}, Note: "noted"})...)
	want := fmt.Sprintf(`
%-58s samples       median      half of them within         p99    ratio
  %-56s not measured: not here
  %-56s       1     2.000 ms      2.000 ms - 2.000 ms    2.000 ms    1.000
  %-56s       3     1.000 ms       1000 ns - 3.000 ms    3.000 ms    0.500  noted
  too busy to tell: every other sample and the rest of the same row differ by 300 %%
`, "what", "absent", "base", "half")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// Where samples taken in turns are as long as each other, the table says nothing of noise.
func TestTableOfAQuietMachine(t *testing.T) {
	quiet := &Peer{Name: "quiet", Samples: []time.Duration{100, 105, 95, 100}}
	var out strings.Builder
	Table(&out, "what", quiet.Row(), Row{Name: "reported", N: 10, Median: 100, P99: 100})
	if strings.Contains(out.String(), "too busy") {
		t.Error(out.String())
	}
	quiet.Samples = []time.Duration{100, 120, 100, 120}
	if Table(&out, "what", quiet.Row()); !strings.Contains(out.String(), "differ by 17 %") {
		t.Error(out.String())
	}
}

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                        "0 ns",
		9999:                     "9999 ns",
		10 * time.Microsecond:    "10.0 µs",
		99949:                    "99.9 µs",
		100 * time.Microsecond:   "0.100 ms",
		999 * time.Millisecond:   "999.000 ms",
		12345 * time.Millisecond: "12.345 s",
	} {
		if got := Text(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}
