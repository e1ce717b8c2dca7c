// SPDX-License-Identifier: Apache-2.0

// Package speed measures what is to be compared side by side, sample by sample, so that a noisy machine is
// noisy for all, and prints it with its ratios.
package speed

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Peer is one of the things that are compared. Only Name and Do are required.
type Peer struct {
	Name    string
	Prepare func() error // before each sample, not measured
	Do      func() error // what is measured
	Per     int          // how many operations one call of Do is; 0 is one
	Note    string       // printed behind the figures
	Absent  error        // why it is not measured; Prepare and Do are not called then

	Samples []time.Duration // of one operation each, in the order in which they were taken
}

// Interleave takes rounds samples of each peer. All are prepared before any of a round is measured, and each
// round begins with another one, so that none always follows the same. The first round warms up and does
// not count. It ends with the first error, or with ctx.
func Interleave(ctx context.Context, rounds int, peers ...*Peer) error {
	present := slices.DeleteFunc(slices.Clone(peers), func(p *Peer) bool { return p.Absent != nil })
	for round := range rounds + 1 {
		for _, p := range present {
			if p.Prepare == nil {
				continue
			}
			if err := p.Prepare(); err != nil {
				return fmt.Errorf("prepare %s: %w", p.Name, err)
			}
		}
		for i := range present {
			p := present[(i+round)%len(present)]
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("measure %s: %w", p.Name, err)
			}
			began := time.Now()
			err := p.Do()
			took := time.Since(began)
			if err != nil {
				return fmt.Errorf("measure %s: %w", p.Name, err)
			}
			if round > 0 {
				p.Samples = append(p.Samples, took/time.Duration(max(p.Per, 1)))
			}
		}
	}
	return nil
}

// Median returns the 50th percentile of the samples, 0 without any.
func (p *Peer) Median() time.Duration { return Quantile(p.Samples, 50) }

// P99 returns the 99th percentile of the samples, 0 without any.
func (p *Peer) P99() time.Duration { return Quantile(p.Samples, 99) }

// Quantile returns the smallest sample that so many percent of the samples are less than; 0 without any.
func Quantile(samples []time.Duration, percent int) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}

// Ratios returns a's samples divided by those of b that were taken in the same rounds, sorted. Their middle
// says more than the ratio of two medians where the machine becomes slower or faster during a run.
func Ratios(a, b []time.Duration) []float64 {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, float64(a[i])/float64(b[i]))
		}
	}
	slices.Sort(ratios)
	return ratios
}
