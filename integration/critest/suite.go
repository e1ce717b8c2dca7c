// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// suite is what all runs have in common.
type suite struct {
	lab               lab.Options
	meshnetd, critest string // programs
	focus             string
	image             string // of every container
}

// play runs the suite once, on a runtime of its own. With a daemon the runtime demands it for every container, where it can.
func (s suite) play(ctx context.Context, runtime lab.Runtime, daemon bool, config string) (_ outcomes, err error) {
	o := s.lab
	o.Runtime, o.DefaultValidator = runtime, runtime.Validates()
	if daemon && o.DefaultValidator {
		o.RequiredPlugins = []string{"meshnetd"}
	}
	l, err := lab.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if !daemon {
		return s.run(ctx, l)
	}
	d, err := l.RunDaemon(ctx, s.meshnetd, config)
	if err != nil {
		return nil, err
	}
	defer d.Kill()
	got, err := s.run(ctx, l)
	if err != nil {
		return nil, err
	}
	protected := strings.Contains(d.Log(), `"event":"pod_protected"`)
	if protected != (config != "") {
		return nil, fmt.Errorf("whether it protected a pod is %t, with the configuration %q", protected, config)
	}
	return got, nil
}

// run has critest write its report, which counts, whatever it exits with.
func (s suite) run(ctx context.Context, l *lab.Lab) (outcomes, error) {
	images, report := filepath.Join(l.Dir(), "critest-images.yaml"), filepath.Join(l.Dir(), "critest.json")
	if err := os.WriteFile(images, []byte("defaultTestContainerImage: "+s.image+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("run critest: %w", err)
	}
	cmd := exec.CommandContext(ctx, s.critest, "-runtime-endpoint=unix://"+l.Socket(), "-nri-socket="+l.NRISocket(),
		"-test-images-file="+images, "-ginkgo.focus="+s.focus, "-ginkgo.seed=1", "-ginkgo.json-report="+report)
	cmd.Dir = l.Dir()
	out, failed := cmd.CombinedOutput()
	text, err := os.ReadFile(report)
	if err != nil || ctx.Err() != nil {
		return nil, fmt.Errorf("run critest: %w\n%s", errors.Join(ctx.Err(), failed, err), bytes.TrimSpace(out))
	}
	got, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("read critest's report: %w", err)
	}
	if failed != nil {
		fmt.Fprintf(os.Stderr, "%s\n", out)
	}
	return got, nil
}

// outcomes are what came of each spec that was to run: "passed", "skipped", which is how the suite says that it knows of
// the runtime's fault, or one of the failures.
type outcomes map[string]string

var failures = map[string]bool{"failed": true, "aborted": true, "panicked": true, "interrupted": true, "timedout": true}

// parse reads a report of Ginkgo's, see its types.Report.
func parse(report []byte) (outcomes, error) {
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts           []string
			LeafNodeType, LeafNodeText, State string
			NumAttempts                       int
		}
	}
	if err := json.Unmarshal(report, &suites); err != nil {
		return nil, err
	}
	got := outcomes{}
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			if spec.NumAttempts > 0 || failures[spec.State] { // it is in focus
				got[strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")] = spec.State
			}
		}
	}
	if !slices.Contains(slices.Collect(maps.Values(got)), "passed") {
		return nil, errors.New("no spec passed")
	}
	return got, nil
}

// worse returns the specs that fail, or did not run, and do not fail without meshnetd.
func (o outcomes) worse(without outcomes) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(without)), func(spec string) bool {
		return failures[without[spec]] || o[spec] != "" && !failures[o[spec]]
	})
}

// String counts them.
func (o outcomes) String() string {
	count := map[string]int{}
	for _, state := range o {
		count[state]++
	}
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
	}
	return strings.Join(parts, ", ")
}
