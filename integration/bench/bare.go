// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/integration/speed"
)

// bare measures what the kernel needs for the same batch when nothing is done but to send it. Only
// daemon/nftables knows the bytes of one, so its own benchmark is run and what it reports is printed here.
func (b *bench) bare() error {
	for _, w := range b.node.backends {
		if w.exec {
			continue
		}
		for _, of := range []struct{ plan, name string }{{"default", kinds()[0].name}, {"tproxy", kinds()[1].name}} {
			rows := []speed.Row{{Name: w.label, Absent: w.err}}
			if w.err == nil {
				var err error
				if rows, err = b.inner("BenchmarkBare/" + w.label + "/" + of.plan); err != nil {
					return err
				}
			}
			speed.Table(b.out, "the bare batch and what is done about it, "+w.label+", "+of.name, rows...)
		}
	}
	b.notef("goal: the hook takes 2 times as long as the bare batch at most")
	return nil
}

// inner runs a benchmark of daemon/nftables.
func (b *bench) inner(benchmark string) ([]speed.Row, error) {
	cmd := exec.CommandContext(b.ctx, b.inside, "-test.run=^$", "-test.bench=^"+strings.ReplaceAll(benchmark, "/", "$/^")+"$",
		fmt.Sprintf("-test.benchtime=%dx", b.rounds(200)))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s of daemon/nftables: %w: %s%s", benchmark, err, out, stderr.Bytes())
	}
	rows := reported(out, benchmark)
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s of daemon/nftables reports nothing: %s", benchmark, out)
	}
	return rows, nil
}

// reported reads what one benchmark says: metrics in nanoseconds, "NAME-median" followed by "NAME-p99", whose
// names begin with a number, by which they are sorted, and have _ in the place of spaces.
func reported(out []byte, benchmark string) (rows []speed.Row) {
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], benchmark) {
			continue
		}
		n, _ := strconv.Atoi(fields[1])
		for i := 2; i+3 < len(fields); i += 2 {
			name, ok := strings.CutSuffix(fields[i+1], "-median")
			if !ok || fields[i+3] != name+"-p99" {
				continue
			}
			_, name, _ = strings.Cut(name, "_")
			rows = append(rows, speed.Row{Name: strings.ReplaceAll(name, "_", " "), N: n,
				Median: nanoseconds(fields[i]), P99: nanoseconds(fields[i+2])})
		}
	}
	return rows
}

func nanoseconds(text string) time.Duration {
	n, _ := strconv.ParseFloat(text, 64)
	return time.Duration(n)
}
