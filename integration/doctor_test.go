// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// What doctor says of a real runtime is what is the case.
func TestDoctor(t *testing.T) {
	if runtime := lab.Runtimes()[0]; runtime.IsCRIO() {
		doctorOfCRIO(t, runtime)
		return
	}
	t.Run("good", func(t *testing.T) {
		opts := labtest.Options(t, lab.Containerd24)
		dropIn := filepath.Join(t.TempDir(), "drop-in.toml")
		write(t, dropIn, "version = 3\n[plugins.\"io.containerd.nri.v1.nri\"]\nplugin_request_timeout = \"3s\"\n")
		opts.DefaultValidator, opts.RequiredPlugins, opts.Imports = true, []string{"meshnetd"}, []string{dropIn}
		l := labtest.Start(t, opts)
		before := diagnose(t, l)
		before.want(t, doctor.OK, "runtime-found", "containerd v2.4")
		before.want(t, doctor.OK, "runtime-version", `the tier is "guaranteed"`)
		before.want(t, doctor.OK, "runtime-config", filepath.Join(l.Dir(), "config.toml"))
		before.want(t, doctor.OK, "nri-enabled", "NRI is on")
		before.want(t, doctor.OK, "nri-socket", l.NRISocket())
		before.want(t, doctor.OK, "nri-request-timeout", "has 3s")
		before.want(t, doctor.OK, "validator-enabled", "is on")
		before.want(t, doctor.OK, "validator-required", "every container")
		before.want(t, doctor.Info, "daemon-running", "does not run")
		before.sound(t)
		if slices.ContainsFunc(before.Findings, func(f doctor.Finding) bool { return f.Check == "runtime-config-loaded" }) {
			t.Errorf("containerd has read its files, but\n%s", before.text())
		}

		d := labtest.RunDaemon(t, l)
		after := diagnose(t, l, "--canary")
		after.want(t, doctor.OK, "daemon-running", "runs since")
		after.want(t, doctor.OK, "daemon-connected", `tier "guaranteed"`)
		after.want(t, doctor.OK, "daemon-version", "one version")
		after.want(t, doctor.OK, "daemon-capabilities", "CAP_SYS_ADMIN")
		after.want(t, doctor.OK, "daemon-mounts", "sees every network namespace")
		after.want(t, doctor.OK, "canary", `required plugin "nobody-`)
		after.sound(t)
		nothingLeft(t, l)
		if strings.Contains(d.Log(), "nri_lost") {
			t.Error("looking at the socket ended meshnetd's session")
		}
	})
	t.Run("validator off", func(t *testing.T) {
		l := labtest.DualStack(t, lab.Containerd24)
		r := diagnose(t, l)
		r.want(t, doctor.Warning, "validator-enabled", "is off")
		r.sound(t)
		diagnose(t, l, "--canary").want(t, doctor.Broken, "canary", "was created")
		diagnose(t, l, "--canary", "--canary-image", "localhost/nobody/nothing:1").want(t, doctor.Warning, "canary", "localhost/nobody/nothing:1")
		nothingLeft(t, l)

		if err := os.Chtimes(filepath.Join(l.Dir(), "config.toml"), time.Time{}, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		diagnose(t, l).want(t, doctor.Warning, "runtime-config-loaded", "has not read it")
	})
	t.Run("NRI off", func(t *testing.T) {
		off := filepath.Join(t.TempDir(), "off.toml")
		write(t, off, "version = 3\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n")
		r := diagnose(t, startLabImporting(t, off))
		r.want(t, doctor.Broken, "nri-enabled", "switched off")
		r.want(t, doctor.Broken, "nri-socket", "Nobody listens")
	})
	t.Run("NRI off in 1.7", func(t *testing.T) {
		opts := labtest.Options(t, lab.Containerd17)
		off := filepath.Join(t.TempDir(), "off.toml")
		write(t, off, "version = 2\n[plugins.\"io.containerd.nri.v1.nri\"]\nplugin_request_timeout = \"3s\"\n") // replaces the table: the default is off
		opts.Imports = []string{off}
		r := diagnose(t, labtest.Start(t, opts))
		r.want(t, doctor.Broken, "nri-enabled", "by default in containerd 1.7")
		r.want(t, doctor.OK, "nri-request-timeout", "has 3s")
	})
	t.Run("containerd 1.7", func(t *testing.T) {
		l := labtest.DualStack(t, lab.Containerd17)
		r := diagnose(t, l, "--canary")
		r.want(t, doctor.Warning, "runtime-version", `the tier is "best effort"`)
		r.want(t, doctor.OK, "nri-enabled", "NRI is on")
		r.want(t, doctor.Info, "validator-enabled", "no validators")
		r.want(t, doctor.Info, "canary", "was created")
		r.sound(t)
		nothingLeft(t, l)
	})
}

func doctorOfCRIO(t *testing.T, runtime lab.Runtime) {
	opts := labtest.Options(t, runtime)
	dropIn := filepath.Join(t.TempDir(), "50-mine.conf")
	write(t, dropIn, "[crio.nri]\nnri_plugin_request_timeout = \"3s\"\n")
	opts.DefaultValidator, opts.RequiredPlugins, opts.Imports = true, []string{"meshnetd"}, []string{dropIn}
	l := labtest.Start(t, opts)
	labtest.RunDaemon(t, l)
	r := diagnose(t, l, "--canary")
	r.want(t, doctor.OK, "runtime-found", "cri-o")
	r.want(t, doctor.OK, "runtime-version", `the tier is "guaranteed"`)
	r.want(t, doctor.OK, "runtime-config", filepath.Join(l.Dir(), "crio.conf"))
	r.want(t, doctor.OK, "nri-enabled", "NRI is on")
	r.want(t, doctor.OK, "nri-request-timeout", "has 3s")
	r.want(t, doctor.OK, "validator-enabled", "is on")
	r.want(t, doctor.OK, "validator-required", "every container")
	r.want(t, doctor.OK, "daemon-connected", `tier "guaranteed"`)
	r.want(t, doctor.OK, "canary", `required plugin "nobody-`)
	r.sound(t)
	nothingLeft(t, l)
	off := labtest.DualStack(t, runtime)
	r = diagnose(t, off)
	r.want(t, doctor.Warning, "validator-enabled", "is off")
	r.sound(t)
}

// diagnosis is what doctor said.
type diagnosis struct{ doctor.Report }

// diagnose runs the program for a lab, and checks that its exit code is that of what it says.
func diagnose(t *testing.T, l *lab.Lab, args ...string) diagnosis {
	t.Helper()
	program := labtest.Racing(t)
	file := filepath.Join(t.TempDir(), "meshnetd.toml")
	write(t, file, fmt.Sprintf("nri.socket = %q\nnri.required = true\ncri_socket = %q\nstatus_socket = %q\n",
		l.NRISocket(), l.Socket(), filepath.Join(l.Dir(), "meshnetd.sock")))
	cmd := exec.CommandContext(labtest.Within(t, time.Minute), program, append([]string{"doctor", "--json", "--config", file}, args...)...)
	var failed strings.Builder
	cmd.Stderr = &failed
	out, err := cmd.Output()
	var d diagnosis
	if jsonErr := json.Unmarshal(out, &d); jsonErr != nil {
		t.Fatalf("%v (%v)\n%s%s", jsonErr, err, out, failed.String())
	}
	code := 0
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		code = exited.ExitCode()
	}
	if code != d.Exit() || failed.Len() > 0 {
		t.Errorf("exit code %d, want %d for %s; standard error: %s", code, d.Exit(), d.Level, failed.String())
	}
	return d
}

// want demands a finding of a check.
func (d diagnosis) want(t *testing.T, level doctor.Level, check, words string) {
	t.Helper()
	if !slices.ContainsFunc(d.Findings, func(f doctor.Finding) bool {
		return f.Check == check && f.Level == level && strings.Contains(f.Found, words)
	}) {
		t.Errorf("no finding %s of level %s that says %q, but\n%s", check, level, words, d.text())
	}
}

func (d diagnosis) sound(t *testing.T) {
	t.Helper()
	if d.Level == doctor.Broken {
		t.Errorf("want nothing broken, got\n%s", d.text())
	}
}

func (d diagnosis) text() string {
	var b strings.Builder
	_ = d.Text(&b)
	return b.String()
}

// nothingLeft is for a lab without pods.
func nothingLeft(t *testing.T, l *lab.Lab) {
	t.Helper()
	sandboxes, err := l.CRI().ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	containers, err := l.CRI().ListContainers(t.Context(), &criv1.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sandboxes.GetItems())+len(containers.GetContainers()) > 0 {
		t.Errorf("left: %v %v", sandboxes.GetItems(), containers.GetContainers())
	}
	err = lab.Poll(labtest.Within(t, time.Minute), func() (bool, error) {
		left, err := filepath.Glob(filepath.Join(l.Dir(), "state", "io.containerd.grpc.v1.cri", "netns", "*"))
		if len(left) > 0 && t.Context().Err() == nil {
			return false, err
		}
		return true, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("network namespaces are left")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
