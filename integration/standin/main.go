// SPDX-License-Identifier: Apache-2.0

// Command standin is the only program of the test image. Its first argument
// selects whether it plays the pause process, an application or the proxy.
// Everything it sees it reports as one JSON object per line on stdout.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"slices"
	"syscall"
)

// errReported ends the program with status 1 without a further message: the
// failure is already on stdout as an event.
var errReported = errors.New("failure reported as event")

func main() {
	// As PID 1 of a container the program gets no default signal handlers.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errReported):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	mode := "pause"
	if args = ownArgs(args); len(args) > 0 {
		mode, args = args[0], args[1:]
	}
	out := &journal{w: stdout}
	switch mode {
	case "pause":
		<-ctx.Done()
		return nil
	case "connect":
		return runConnect(ctx, args, out)
	case "dial":
		return runDial(ctx, args, out)
	case "flood":
		return runFlood(ctx, args, out)
	case "echo":
		return runEcho(ctx, args, out)
	case "envoy":
		return runEnvoy(ctx, args, out)
	case "lookup":
		return runLookup(ctx, args, out)
	case "names":
		return runNames(ctx, args, out)
	case "proxy":
		return runProxy(ctx, args, out)
	case "serve":
		return runServe(ctx, args, out)
	case "setgid":
		return runSetgid(args)
	case "talk":
		return runTalk(ctx, args, out)
	case "validate":
		return runValidate(ctx, args, out)
	default:
		return fmt.Errorf("unknown mode %q (want pause, connect, dial, echo, envoy, flood, lookup, names, proxy, serve, setgid, talk or validate)", mode)
	}
}

// ownArgs leaves out what a mesh's own program, as which this one is called, has before its arguments.
func ownArgs(args []string) []string {
	for len(args) > 0 && slices.Contains([]string{"istio-iptables", "run", "consul-dataplane"}, path.Base(args[0])) {
		args = args[1:]
	}
	return args
}

// parseMixed accepts flags before, between and after the positional
// arguments, of which there must be exactly want.
func parseMixed(flags *flag.FlagSet, args []string, want int, usage string) ([]string, error) {
	flags.SetOutput(os.Stderr)
	var positional []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, fmt.Errorf("usage: %s: %w", usage, err)
		}
		if flags.NArg() == 0 {
			break
		}
		positional = append(positional, flags.Arg(0))
		args = flags.Args()[1:]
	}
	if len(positional) != want {
		return nil, fmt.Errorf("usage: %s", usage)
	}
	return positional, nil
}
