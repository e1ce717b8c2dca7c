// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command critest runs the contract suite that Kubernetes has for runtimes with NRI plugins, on real runtimes: without
// meshnetd, beside it, and with every pod in the mesh. It fails where a spec fails that does not fail without meshnetd.
// `make critest` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// meshed is the configuration by which meshnetd takes every pod of the suite for one of the mesh.
const meshed = `[[static]]
name = "critest"
namespaces = ["cri-test-namespace*"]
proxy_uid = 4000
proxy_containers = ["proxy"]
inbound_port = 16006
outbound_port = 16001
`

// rounds are how the suite is run: the first one is what the others are held to.
var rounds = []struct {
	name   string
	daemon bool
	config string
}{
	{name: "without meshnetd"},
	{name: "beside it", daemon: true},
	{name: "every pod in the mesh", daemon: true, config: meshed},
}

func main() {
	var s suite
	flag.StringVar(&s.lab.Binaries, "runtimes", "", "directory that integration/runtimes/build.sh built into")
	flag.StringVar(&s.lab.Standin, "standin", "", "the stand-in program")
	flag.StringVar(&s.meshnetd, "meshnetd", "", "the meshnetd program")
	flag.StringVar(&s.critest, "critest", "", "the critest program")
	flag.StringVar(&s.focus, "focus", "NRI", "run the specs whose names match this expression")
	version := flag.String("version", "", "run on this runtime only, such as "+string(lab.Containerd24))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s, lab.Runtime(*version)); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

// run prints a table of all runs, and returns what fails because of meshnetd.
func run(ctx context.Context, s suite, only lab.Runtime) error {
	shell, err := packShell()
	if err != nil {
		return err
	}
	server := httptest.NewServer(registry{shell}) // runtimes speak plain HTTP with a registry on loopback
	defer server.Close()
	s.image = strings.TrimPrefix(server.URL, "http://") + "/critest/busybox:1"

	table := "| runtime |"
	for _, r := range rounds {
		table += " " + r.name + " |"
	}
	table += "\n|---|" + strings.Repeat("---|", len(rounds))
	var broken error
	runtimes := lab.Runtimes()
	if only != "" {
		runtimes = []lab.Runtime{only}
	}
	for _, v := range runtimes {
		row, err := s.compare(ctx, v)
		broken = errors.Join(broken, err)
		table += fmt.Sprintf("\n| %s | %s |", v, strings.Join(row, " | "))
	}
	fmt.Println(table)
	return broken
}

// compare runs all rounds on one runtime. The error names each spec that fails with meshnetd only.
func (s suite) compare(ctx context.Context, runtime lab.Runtime) (row []string, err error) {
	var without outcomes
	for i, r := range rounds {
		fmt.Fprintf(os.Stderr, "%s, %s\n", runtime, r.name)
		got, played := s.play(ctx, runtime, r.daemon, r.config)
		if played != nil {
			return row, errors.Join(err, fmt.Errorf("%s, %s: %w", runtime, r.name, played))
		}
		row = append(row, got.String())
		if i == 0 {
			without = got
		}
		for _, spec := range got.worse(without) {
			err = errors.Join(err, fmt.Errorf("%s, %s: fails, and does not without meshnetd: %s", runtime, r.name, spec))
		}
	}
	return row, err
}
