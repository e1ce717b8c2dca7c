// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernels

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// tree returns a directory with packages of a Debian.
func tree(t *testing.T, suite string, packages ...string) string {
	t.Helper()
	cmd := exec.Command("../debian/tree.sh", append([]string{suite}, packages...)...)
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("packages of %s: %v", suite, err)
	}
	return strings.TrimSpace(string(out))
}

// build returns what is laid into every machine: tests and programs of this module.
func build(t *testing.T) map[string]string {
	t.Helper()
	files, dir := map[string]string{}, t.TempDir()
	compile := func(at string, args ...string) {
		out := filepath.Join(dir, strings.ReplaceAll(at, "/", "-"))
		cmd := exec.Command("go", slices.Concat(args[:1], []string{"-trimpath", "-ldflags", "-s -w", "-o", out}, args[1:])...)
		cmd.Dir, cmd.Env = "../..", append(cmd.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		files[at] = out
	}
	for _, pkg := range tested {
		compile("module/"+pkg+"/package.test", "test", "-c", "./"+pkg)
	}
	compile("usr/bin/meshnetd", "build", "./cmd/meshnetd")
	compile("module/build/standin", "build", "./integration/standin")
	// The tests find that their stand-in has been built for their run.
	files["module/go.mod"], files["module/build/.standin.run"], files["usr/bin/pod.sh"] = "../../go.mod", "guest/run", "guest/pod.sh"
	return files
}

// record is where a run is written down, for docs/compatibility.md.
var record = flag.String("record", "", "write what was run and what came of it into this file")

// Debian's kernels, whole: every backend proves itself, and rules do in them what they do in this machine's.
// Less of a kernel: what is left writes the rules, or a sentence says what is missing. Never is a pod left without rules.
func TestKernels(t *testing.T) {
	for _, program := range []string{"qemu-system-x86_64", "depmod"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("needs %s: %v", program, err)
		}
	}
	files := build(t)
	userland := tree(t, "bookworm", "bash", "coreutils", "util-linux", "mount", "kmod", "iproute2", "iptables", "nftables", "procps", "sed")
	table := "| Kernel of Debian | lacks | Rules are written by | Rows | On |\n|---|---|---|---|---|\n"
	for _, m := range machines() {
		t.Run(m.name, func(t *testing.T) {
			table += boot(t, m, files, userland)
		})
	}
	if *record != "" {
		if err := os.WriteFile(*record, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}

var (
	release = regexp.MustCompile(`(?m)^\d+\.\d+\S+$`)
	taken   = regexp.MustCompile(`backend = "auto" takes (.*)\.`)
)

// boot runs a machine, and returns its line of the table.
func boot(t *testing.T, m machine, files map[string]string, userland string) string {
	kernel, backend, good, began := m.name, "nothing: pods are refused", 0, time.Now()
	err := m.boot(t.Context(), t.TempDir(), tree(t, m.suite, "linux-image-cloud-amd64"), userland, files, func(r row, got result) {
		took := time.Since(began).Round(time.Second)
		began = time.Now()
		if found := release.FindString(got.output); found != "" {
			kernel = found
		}
		if found := taken.FindStringSubmatch(got.output); found != nil {
			backend = found[1]
		}
		if t.Run(r.name, func(t *testing.T) {
			t.Logf("status %s, %s\n%s", got.status, took, got.output)
			if got.status == "" || (got.status != "0") != r.fails {
				t.Errorf("ended with status %q", got.status)
			}
			for _, want := range r.want {
				if !strings.Contains(got.output, want) {
					t.Errorf("there is no %q", want)
				}
			}
		}) {
			good++
		}
	})
	if err != nil {
		t.Error(err)
	}
	rows := fmt.Sprintf("%d of %d good", good, len(m.rows))
	if testing.Short() {
		rows += ", the short ones"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", kernel, m.lacks, backend, rows, time.Now().Format(time.DateOnly))
}
