// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command faults plays the fault matrix on real runtimes and prints it as a Markdown table. `make faults`
// runs it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
)

func main() {
	var o faults.Options
	flag.StringVar(&o.Lab.Binaries, "runtimes", "", "directory that integration/runtimes/build.sh built into")
	flag.StringVar(&o.Meshnetd, "meshnetd", "", "the meshnetd program")
	flag.StringVar(&o.Lab.Standin, "standin", "", "the stand-in program")
	only := flag.String("only", "", "play only the faults whose name contains this")
	version := flag.String("version", "", "play only on this runtime, such as "+string(lab.Containerd24)+", which is also the soak's; the other one shows that a soak can fail")
	pods := flag.Int("soak", 0, "instead of the matrix, start and stop that many pods while meshnetd is killed")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the moments in which it is killed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if *pods > 0 {
		o.Lab.Runtime = cmp.Or(lab.Runtime(*version), lab.Containerd24)
		err = soak(ctx, o, faults.Soak{Pods: *pods, AtOnce: 4, Seed: *seed})
	} else {
		err = matrices(ctx, o, *version, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func soak(ctx context.Context, o faults.Options, s faults.Soak) (err error) {
	w, err := faults.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	fmt.Fprintf(os.Stderr, "%d pods, seed %d\n", s.Pods, s.Seed)
	r, err := w.Soak(ctx, s)
	r.Print(os.Stdout)
	for _, problem := range r.Problems() {
		err = errors.Join(err, errors.New(problem))
	}
	return err
}

// matrices plays all rows on all runtimes and prints one table.
func matrices(ctx context.Context, o faults.Options, version, only string) (err error) {
	var results []faults.Result
	runtimes := lab.Runtimes()
	if version != "" {
		runtimes = []lab.Runtime{lab.Runtime(version)}
	}
	for _, v := range runtimes {
		o.Lab.Runtime = v
		err = errors.Join(err, matrix(ctx, o, only, func(r faults.Result) {
			fmt.Fprintf(os.Stderr, "%-14s %-66s %6s\n", v, r.Row.Fault, r.Took.Round(100*time.Millisecond))
			results = append(results, r)
		}))
	}
	faults.Print(os.Stdout, results)
	for _, r := range results {
		for _, problem := range r.Problems() {
			err = errors.Join(err, fmt.Errorf("%s, %s: %s", r.Runtime, r.Row.Fault, problem))
		}
	}
	return err
}

// matrix plays all rows on one runtime.
func matrix(ctx context.Context, o faults.Options, only string, played func(faults.Result)) (err error) {
	w, err := faults.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, row := range w.Rows() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if strings.Contains(row.Fault, only) {
			played(w.Play(ctx, row))
		}
	}
	return nil
}
