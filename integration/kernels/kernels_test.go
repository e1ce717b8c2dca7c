// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernels

import (
	"flag"
	"fmt"
	"maps"
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

// build makes in dir what is laid into every machine of an architecture: tests and programs of this module.
func build(t *testing.T, arch, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	compile := func(at string, args ...string) {
		out := filepath.Join(dir, strings.ReplaceAll(at, "/", "-"))
		cmd := exec.Command("go", slices.Concat(args[:1], []string{"-trimpath", "-ldflags", "-s -w", "-o", out}, args[1:])...)
		cmd.Dir, cmd.Env = "../..", append(cmd.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
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

// runtimes returns what is laid into a machine that is a node: containerd, and crun beside the runc of its Debian. Its daemon is
// the program that operators run.
func runtimes(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	for _, command := range [][]string{{"../runtimes/build.sh", dir, "containerd-2.4", "cni"}, {"../debian/crun.sh", filepath.Join(dir, "crun")}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	crun := tree(t, "sid", "crun")
	node := maps.Clone(files)
	maps.Copy(node, map[string]string{
		"runtimes/containerd-2.4": filepath.Join(dir, "containerd-2.4"), "runtimes/cni": filepath.Join(dir, "cni"),
		"module/build/meshnetd-race": files["usr/bin/meshnetd"], "module/build/.meshnetd-race.run": "guest/run",
		"usr/bin/crun": filepath.Join(dir, "crun"), crun[1:]: crun,
	})
	return node
}

// record is where a run is written down, for docs/compatibility.md.
var record = flag.String("record", "", "write what was run and what came of it into this file")

// Debian's kernels, whole: every backend proves itself, and rules do in them what they do in this machine's.
// Less of a kernel: what is left writes the rules, or a sentence says what is missing. Never is a pod left without rules.
func TestKernels(t *testing.T) {
	laid, built := map[string]map[string]string{}, t.TempDir()
	table := "| Kernel of Debian | lacks | Rules are written by | Rows | On |\n|---|---|---|---|---|\n"
	for _, m := range machines() {
		t.Run(m.name, func(t *testing.T) {
			arch, of := "amd64", ""
			if m.arm64 {
				arch, of = "arm64", ":arm64"
			}
			if laid[arch] == nil {
				laid[arch] = build(t, arch, filepath.Join(built, arch))
			}
			files := laid[arch]
			if m.node {
				files = runtimes(t, files)
			}
			userland := tree(t, "bookworm"+of, "bash", "coreutils", "util-linux", "mount", "kmod", "iproute2", "iptables", "nftables", "procps", "runc", "sed")
			table += boot(t, m, tree(t, m.suite+of, "linux-image-cloud-"+arch), userland, files)
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
func boot(t *testing.T, m machine, kernel, userland string, files map[string]string) string {
	version, backend, good, began := m.name, "nothing: pods are refused", 0, time.Now()
	err := m.boot(t.Context(), t.TempDir(), kernel, userland, files, func(r row, got result) {
		took := time.Since(began).Round(time.Second)
		began = time.Now()
		if found := release.FindString(got.output); found != "" {
			version = found
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
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", version, m.lacks, backend, rows, time.Now().Format(time.DateOnly))
}
