// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/status"
)

// A node without a runtime is broken, the configuration's problems are findings, and a running daemon is looked at. All
// is an answer: nothing goes to standard error.
func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	nowhere := fmt.Sprintf("cri_socket = %q\nnri.socket = %q\n", filepath.Join(dir, "cri.sock"), filepath.Join(dir, "nri.sock"))
	for name, c := range map[string]struct {
		config string
		want   []string // within the findings, as LEVEL CHECK
	}{
		"good":           {nowhere + fmt.Sprintf("status_socket = %q\n", daemonWith(t)), []string{"ok config", "broken runtime-found", "broken daemon-connected", "warning daemon-version"}},
		"bad":            {"unknown = 1\nbackend = \"x\"\n", []string{"broken config", "broken config"}},
		"without daemon": {nowhere + fmt.Sprintf("status_socket = %q\n", filepath.Join(dir, "no.sock")), []string{"info daemon-running"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(strings.ReplaceAll(name, " ", "-")+".toml", c.config)
			code, out, err := execute(t, "", "doctor", "--json", "--config", file, "--runtime-config", write("runtime.toml", "version = 3\n"))
			var r doctor.Report
			if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil || code != 2 || err.Error() != "" {
				t.Fatalf("exit %d, %v, %v\n%s", code, err, jsonErr, out)
			}
			var got []string
			for _, f := range r.Findings {
				got = append(got, string(f.Level)+" "+f.Check)
			}
			for _, want := range c.want {
				at := slices.Index(got, want)
				if at < 0 {
					t.Fatalf("no %s in\n%s", want, out)
				}
				got = slices.Delete(got, at, at+1)
			}
			_, text, _ := execute(t, "", "doctor", "--config", file)
			if !strings.HasPrefix(text, "runtime\n  broken   runtime-found: ") && name != "bad" {
				t.Errorf("as text:\n%s", text)
			}
		})
	}
	if code, out, err := execute(t, "", "doctor", "--config", filepath.Join(dir, "none.toml")); code != 2 || err.Error() != "" || !strings.Contains(out, "none.toml: no such file") {
		t.Errorf("no such configuration: exit %d, %v\n%s", code, err, out)
	}
}

// What a daemon tells quotes pods, and what is found on a node its files.
func TestDoctorLeavesTheTerminalAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meshnetd.toml")
	socket := serving(t, func() status.Status { return status.Status{Version: "v1\x1b[2J"} })
	if err := os.WriteFile(file, fmt.Appendf(nil, "status_socket = %q\n", socket), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, text, _ := execute(t, "", "doctor", "--config", file); !strings.Contains(text, "v1 [2J") || strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}

func TestDoctorHelp(t *testing.T) {
	code, out, err := execute(t, "", "doctor", "--help")
	for _, want := range []string{"Exit 0", "1 when there are warnings", "2 when something is broken", "Examples:", "--canary-image IMAGE", "--runtime-config FILE"} {
		if code != 0 || err != nil || !strings.Contains(out, want) {
			t.Errorf("exit %d, %v, no %q in\n%s", code, err, want, out)
		}
	}
}
