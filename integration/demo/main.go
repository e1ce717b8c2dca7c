// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command demo shows in a minute what meshnetd is for, on a real containerd: a pod whose first packet goes around its
// sidecar, the same pod with meshnetd, and what happens while meshnetd is dead. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

const limit = 2 * time.Minute

func main() {
	runtimes := flag.String("runtimes", "", "directory that integration/runtimes/build.sh built into")
	program := flag.String("meshnetd", "", "the meshnetd program")
	standin := flag.String("standin", "", "the stand-in program")
	record := flag.String("record", "", "directory that demo.svg and picture.svg of this run are written into")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, *runtimes, *program, *standin, *record); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if errors.Is(ctx.Err(), context.Canceled) {
			fmt.Fprintln(os.Stderr, "demo: interrupted; everything is cleaned up")
		}
		os.Exit(1)
	}
}

// run starts everything and takes it away again, however it ends.
func run(ctx context.Context, runtimes, program, standin, record string) (err error) {
	l, err := lab.Start(ctx, lab.Options{Runtime: lab.Containerd24, Binaries: runtimes, Standin: standin, DefaultValidator: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := show{ctx: ctx, lab: l, program: program, screen: newScreen(os.Stdout)}
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.all(); err != nil || record == "" {
		return err
	}
	for name, text := range map[string]string{"demo.svg": s.screen.svg(), "picture.svg": s.times.picture()} {
		if err := os.WriteFile(filepath.Join(record, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("record the demo: %w", err)
		}
	}
	return nil
}
