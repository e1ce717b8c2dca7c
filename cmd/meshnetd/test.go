// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
)

// testFlags is what a test was asked for.
type testFlags struct {
	files         []string
	traffic, json bool
	ask           asking
}

func testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use:   "test -f EXPECT.toml {-f POD | NAMESPACE/POD | SANDBOX-ID}",
		Short: "Say whether packets end in a pod where a file expects them to",
		Long: "Traces packets through the rules that a manifest would get, without root and without a daemon, or through those that the\n" +
			"running daemon keeps in a pod; with --traffic sends them in that pod, as `meshnetd verify --traffic` does, and looks where\n" +
			"they end. Files that end in .toml are expectations, all together; the other is the manifest.\n\n" +
			"A file of expectations is one table, [expect]. Each key is a packet: its protocol (tcp, udp; icmp, an echo, sctp and gre have no port), and in any order\n" +
			"  in | out            from a peer to the pod, or from a process of the pod; \"to\" alone means out\n" +
			"  to ADDRESS:PORT     where it goes; or PORT alone, to no address in particular, over IPv4 and IPv6 as the pod has them\n" +
			"  as uid N gid N      of the process that sends (1000 where nothing is said)\n" +
			"  from ADDRESS:PORT, by INTERFACE, ipv4, ipv6\n" +
			"and the value is where it is to end:\n" +
			"  proxy               at a listener of the proxy; \"proxy 15001\" names it\n" +
			"  delivered, leaves   at whoever listens there in the pod, or outside of it: no rule gives it to the proxy\n" +
			"  refused, dropped    with an answer, or without one; \"blocked\" is either\n\n" +
			"Exit 0 when all end where they should; 4 when some end elsewhere, which is said; 1 no such pod, no daemon, no right to ask it,\n" +
			"or a packet of which nobody can tell; 2 wrong command line, expectations or configuration; 3 the pod of -f is refused.",
		Example: "  meshnetd test -f examples/expect-capture.toml -f examples/web.yaml\n" +
			"  meshnetd test -f expect.toml shop/cart-7d4b9\n  meshnetd test -f expect.toml --traffic shop/cart-7d4b9",
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringArrayVarP(&f.files, "file", "f", nil, "`FILE` of expectations (.toml), or the Pod manifest, YAML or JSON; - is a manifest on standard input")
	c.Flags().BoolVar(&f.traffic, "traffic", false, "send the packets in the running pod")
	c.Flags().BoolVar(&f.json, "json", false, "print the answer as JSON")
	f.ask = askingFlags(c)
	c.ValidArgsFunction = f.ask.pods
	c.RunE = func(c *cobra.Command, args []string) error {
		expected, manifest, err := f.read()
		if err != nil {
			return err
		}
		pod := strings.Join(args, "")
		switch {
		case len(expected) == 0:
			return errors.New("name a file of expectations, as in `meshnetd test -f expect.toml shop/cart`")
		case (manifest == "") == (pod == ""):
			return errors.New("name a pod as NAMESPACE/POD, or a manifest by a second -f, and not both")
		case manifest != "" && f.traffic:
			return errors.New("--traffic sends packets in a pod that runs: name it as NAMESPACE/POD")
		}
		scene, err := f.ask.scene(c, manifest, pod)
		if err != nil {
			return err
		}
		var all []explain.Tested
		for _, e := range expected {
			all = append(all, e.Test(scene)...)
		}
		if f.traffic {
			if err := f.send(c.Context(), pod, all); err != nil {
				return &exit{exitFailed, err}
			}
		}
		return endTest(c, f.json, all)
	}
	return c
}

// read returns what is expected, and the manifest's name, where there is one.
func (f testFlags) read() (all []explain.Expectation, manifest string, err error) {
	for _, file := range f.files {
		if filepath.Ext(file) != ".toml" {
			if manifest != "" {
				return nil, "", fmt.Errorf("%s and %s are two manifests: a test is about one pod", manifest, file)
			}
			manifest = file
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, "", &exit{exitFailed, fmt.Errorf("expectations: %w", err)}
		}
		more, err := explain.ParseExpectations(file, string(text))
		if err != nil {
			return nil, "", &exit{exitBadConfig, err}
		}
		all = append(all, more...)
	}
	return all, manifest, nil
}

func endTest(c *cobra.Command, asJSON bool, all []explain.Tested) error {
	var err error
	if asJSON {
		err = printDocument(c.OutOrStdout(), all)
	} else {
		err = explain.PrintTested(c.OutOrStdout(), all)
	}
	n := explain.CountTested(all)
	switch {
	case err != nil:
		return err
	case n[explain.Elsewhere] > 0:
		return &exit{exitDifference, errSaid}
	case n[explain.Unknown] > 0:
		return &exit{exitFailed, errSaid}
	}
	return nil
}
