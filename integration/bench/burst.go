// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
)

const (
	burstSize   = 100 // pods
	burstAtOnce = 10
)

// burst measures how long many pods take that are asked for at the same time.
func (b *bench) burst() error {
	if err := b.runtime(); err != nil {
		return err
	}
	without, with := &speed.Peer{Name: "without meshnetd"}, &speed.Peer{Name: "with meshnetd"}
	peers := []*speed.Peer{without, with}
	rounds := b.rounds(10)
	for round := range rounds {
		for i := range peers {
			p := peers[(i+round)%len(peers)]
			if err := b.rush(p, p == with); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, rounds)
	}
	fmt.Fprintln(os.Stderr)
	speed.Table(b.out, fmt.Sprintf("%d meshed dual-stack pods, %d asked for at once", burstSize, burstAtOnce), speed.Rows(peers...)...)
	b.notef("with to without, of the same rounds: %s", spread(speed.Ratios(with.Samples, without.Samples)))
	b.notef("noise, without to without of the round before: %s", spread(speed.Ratios(without.Samples[1:], without.Samples)))
	b.notef("goal: 1.03")
	return nil
}

// spread says where the middle of sorted ratios is, and their middle half.
func spread(ratios []float64) string {
	if len(ratios) == 0 {
		return "none"
	}
	return fmt.Sprintf("%.3f, half of them from %.3f to %.3f", ratios[len(ratios)/2], ratios[len(ratios)/4], ratios[len(ratios)*3/4])
}

// rush takes one sample.
func (b *bench) rush(p *speed.Peer, meshnetd bool) error {
	b.calm()
	return b.meeting(meshnetd, dualStackConfig, func(daemon *lab.Daemon) error {
		pods, took, err := b.crowd(burstSize, burstAtOnce)
		p.Samples = append(p.Samples, took)
		if err == nil && daemon != nil {
			err = protected(b.ctx, daemon, pods)
		}
		return errors.Join(err, b.disperse(pods))
	})
}
