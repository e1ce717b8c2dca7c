// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// MainInParts is Main for a package whose tests mostly wait: each has a machine of its own, and several run at once.
// The long ones are begun first. What a test prints comes when it has ended.
func MainInParts(m *testing.M, long ...string) {
	flag.Parse()
	option := func(name string) string { return flag.Lookup("test." + name).Value.String() }
	if option("bench")+option("fuzz")+option("list")+option("coverprofile")+option("cpuprofile") != "" {
		Main(m)
	}
	runtime.LockOSThread()
	os.Exit(run(m.Run, func() (int, error) { return enterEach(option("run"), long) }))
}

// enterEach runs the tests that a pattern of -test.run tells, each on a machine, and returns the worst of their
// statuses.
func enterEach(pattern string, long []string) (worst int, failed error) {
	top, below, deep := strings.Cut(pattern, "/")
	names, err := listed(top)
	if err != nil {
		return 0, err
	}
	slices.SortStableFunc(names, func(a, b string) int { return urgency(long, a) - urgency(long, b) })
	var wg sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, runtime.NumCPU()+1)
	for _, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			only := "^" + regexp.QuoteMeta(name) + "$"
			if deep {
				only += "/" + below
			}
			var out bytes.Buffer
			status, err := enter(append(slices.Clone(os.Args[1:]), "-test.run="+only), &out)
			mu.Lock()
			defer mu.Unlock()
			_, _ = out.WriteTo(os.Stdout)
			worst = max(worst, status)
			if err != nil {
				failed = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	wg.Wait()
	return worst, failed
}

// urgency is a test's place among the long ones, or behind them.
func urgency(long []string, name string) int {
	if i := slices.Index(long, name); i >= 0 {
		return i
	}
	return len(long)
}

// listed returns the tests, fuzz tests and examples whose name matches.
func listed(pattern string) ([]string, error) {
	if pattern == "" {
		pattern = "."
	}
	cmd := exec.Command(os.Args[0], "-test.list="+pattern)
	cmd.Env, cmd.Stderr = append(os.Environ(), stage+"="+inside), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w", err)
	}
	names := strings.Fields(string(out))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, "Benchmark") }), nil
}
