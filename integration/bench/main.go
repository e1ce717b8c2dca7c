// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command bench measures what meshnetd costs: a pod's start, a packet, the node. All figures come from one
// run in which what is compared takes turns, so that a noisy machine is noisy for all. `make bench` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// section is a part of the run that can be had alone.
type section struct {
	name string
	run  func(*bench) error
}

// sections are in the order in which they are run: those that need a containerd come last.
func sections() []section {
	return []section{
		{"hook", (*bench).hook}, {"stages", (*bench).stages}, {"ratio", (*bench).ratio}, {"gate", (*bench).gate}, {"packet", (*bench).packet},
		{"lockdown", (*bench).lockdown},
		{"pod", (*bench).pod}, {"scale", (*bench).scale}, {"memory", (*bench).memory}, {"burst", (*bench).burst}, {"hostile", (*bench).hostile},
	}
}

func main() {
	var b bench
	flag.StringVar(&b.runtimes, "runtimes", "", "directory that integration/runtimes/build.sh built into")
	flag.StringVar(&b.program, "meshnetd", "", "the meshnetd program")
	flag.StringVar(&b.standin, "standin", "", "the stand-in program")
	flag.StringVar(&b.inside, "inside", "", "the tests of daemon/nftables, compiled")
	flag.StringVar(&b.pilotAgent, "pilot-agent", "", "Istio's pilot-agent, to compare with; \"\" leaves it out")
	flag.StringVar(&b.plots, "plots", "", "directory for pictures of the figures; \"\" draws none")
	flag.IntVar(&b.effort, "effort", 100, "how many samples are taken, in `percent` of the usual number")
	only := flag.String("only", "", "these sections and no others, with commas between: "+strings.Join(names(), ","))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b.ctx, b.out = ctx, os.Stdout
	run := func() error { return b.run(*only) }
	if by := os.Getenv(played); by != "" {
		run = func() error { return errors.Join(b.play(by), b.close()) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() (all []string) {
	for _, s := range sections() {
		all = append(all, s.name)
	}
	return all
}

// bench is one run.
type bench struct {
	ctx    context.Context
	out    io.Writer
	effort int // percent

	runtimes, program, standin, inside, pilotAgent, plots string

	node *node    // nil until a section needs it, as the next
	lab  *lab.Lab // one for all sections
	pods int      // that were started, for their names
}

func (b *bench) run(only string) (err error) {
	wanted := names()
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("there is no section %q: choose from %s", name, strings.Join(names(), ","))
		}
	}
	if err := machine(b.out); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	began := time.Now()
	for _, s := range sections() {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%4.0f s: %s\n", time.Since(began).Seconds(), s.name)
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Fprintf(b.out, "\nmeasured in %.0f s\n", time.Since(began).Seconds())
	return nil
}

func (b *bench) close() (err error) {
	if b.node != nil {
		b.node.close()
	}
	if b.lab != nil {
		err = b.lab.Close()
	}
	return err
}

// rounds is the usual number of samples, or as much of it as was asked for.
func (b *bench) rounds(usual int) int { return max(usual*b.effort/100, 1) }

// plot keeps a picture of figures.
func (b *bench) plot(name, svg string) error {
	if b.plots == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(b.plots, name+".svg"), []byte(svg), 0o644)
}

// notef prints a line below a table.
func (b *bench) notef(format string, args ...any) { fmt.Fprintf(b.out, "  "+format+"\n", args...) }
