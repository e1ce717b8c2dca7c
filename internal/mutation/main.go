// SPDX-License-Identifier: Apache-2.0

// Mutation breaks every rule of every plan that the tests know, one thing at a time, and reports whether some
// packet ends elsewhere. It exits with 1 where a change goes unnoticed that is not known to mean nothing, or
// where a rule is met by no packet.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
)

func main() {
	testdata := flag.String("testdata", "rules/istio/testdata", "the folder of the plans that are kept as text")
	each := flag.Bool("v", false, "print each plan")
	flag.Parse()
	all, err := subjects(*testdata)
	perfect := false
	if err == nil {
		perfect, err = run(os.Stdout, all, *each)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutation:", err)
	}
	if err != nil || !perfect {
		os.Exit(1)
	}
}

// run prints the score of plans and reports whether it is perfect.
func run(out io.Writer, all []subject, each bool) (perfect bool, err error) {
	scores, err := measureAll(all)
	if err != nil {
		return false, err
	}
	total := Score{Equivalent: map[string]int{}}
	for i, s := range all {
		score := scores[i]
		name := fmt.Sprintf("%s, %s", s.name, s.family)
		if each {
			fmt.Fprintf(out, "%s: %d rules, %d packets, %d of %d mutants killed\n", name, score.Rules, score.Packets, score.Killed, score.Mutants)
		}
		for _, rule := range score.Unmet {
			fmt.Fprintf(out, "no packet meets, in %s: %s\n", name, rule)
		}
		for _, mutant := range score.Survivors {
			fmt.Fprintf(out, "unnoticed, in %s: %s\n", name, mutant)
		}
		for _, mutant := range score.Refuted {
			fmt.Fprintf(out, "noticed, although a reason says it cannot be, in %s: %s\n", name, mutant)
		}
		total.add(score)
	}
	total.print(out, len(all))
	return len(total.Survivors)+len(total.Unmet)+len(total.Refuted) == 0, nil
}

// measureAll measures as many at a time as there are processors.
func measureAll(all []subject) ([]Score, error) {
	scores, errs := make([]Score, len(all)), make([]error, len(all))
	var running sync.WaitGroup
	turn := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, s := range all {
		turn <- struct{}{}
		running.Go(func() {
			scores[i], errs[i] = Measure(s)
			<-turn
		})
	}
	running.Wait()
	return scores, errors.Join(errs...)
}

func (s *Score) add(other Score) {
	s.Rules += other.Rules
	s.Dead += other.Dead
	s.Packets += other.Packets
	s.Mutants += other.Mutants
	s.Killed += other.Killed
	s.Unmet = append(s.Unmet, other.Unmet...)
	s.Survivors = append(s.Survivors, other.Survivors...)
	s.Refuted = append(s.Refuted, other.Refuted...)
	for why, n := range other.Equivalent {
		s.Equivalent[why] += n
	}
}

func (s *Score) print(out io.Writer, plans int) {
	fmt.Fprintf(out, "%d rules of %d rule sets, %d packets: %d rules are met, %d cannot be, %d are not\n",
		s.Rules, plans, s.Packets, s.Rules-s.Dead-len(s.Unmet), s.Dead, len(s.Unmet))
	whys, equivalent := []string{}, 0
	for why, n := range s.Equivalent {
		whys = append(whys, why)
		equivalent += n
	}
	slices.SortFunc(whys, func(a, b string) int { return s.Equivalent[b] - s.Equivalent[a] })
	fmt.Fprintf(out, "%d mutants: %d killed, %d equivalent, %d unnoticed\n", s.Mutants, s.Killed, equivalent, len(s.Survivors))
	for _, why := range whys {
		fmt.Fprintf(out, "  %4d equivalent: %s\n", s.Equivalent[why], why)
	}
	fmt.Fprintf(out, "score %.1f %%\n", 100*float64(s.Killed)/float64(s.Killed+len(s.Survivors)))
}
