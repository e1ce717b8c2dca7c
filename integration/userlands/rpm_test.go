// SPDX-License-Identifier: Apache-2.0

//go:build linux

package userlands

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

// called is a program that writes down how it was called, in the place of systemd's.
const called = "#!/bin/bash\necho ${0##*/} \"$@\" >>/called\n"

// The rpm is installed, upgraded and removed by rpm, in a tree that looks as if systemd ran there, and its scripts do what
// those of the deb do.
func TestRPM(t *testing.T) {
	nstest.Require(t, "rpm")
	built, root := t.TempDir(), t.TempDir()
	command(t, "env", "VERSION=v0.0.1", "../../packaging/build.sh", built)
	packages, err := filepath.Glob(filepath.Join(built, "*.rpm"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("built %q, %v", packages, err)
	}
	command(t, "cp", "-a", fetch(t, "bookworm").tree+"/.", root)
	command(t, "mkdir", "-p", filepath.Join(root, "run/systemd/system"))
	command(t, "ln", "-sf", "bash", filepath.Join(root, "bin/sh"))
	for _, name := range []string{"systemctl", "journalctl"} {
		if err := os.WriteFile(filepath.Join(root, "usr/bin", name), []byte(called), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const reload = "journalctl --update-catalog\nsystemctl daemon-reload\n"
	for _, step := range []struct{ verb, what, says, calls string }{
		{"-i", packages[0], "then: systemctl enable --now meshnetd", reload},
		{"-U --replacepkgs", packages[0], "", reload + "systemctl --quiet is-active meshnetd\nsystemctl restart meshnetd\n"},
		{"-V", "meshnetd", "", ""}, // nothing of it has changed
		{"-e", "meshnetd", "take its drop-in away", "systemctl disable --now meshnetd\n" + reload + "systemctl reset-failed meshnetd\n"},
	} {
		said := command(t, "rpm", append(append([]string{"--root", root, "--nodeps"}, strings.Fields(step.verb)...), step.what)...)
		if !strings.Contains(said, step.says) {
			t.Errorf("rpm %s says %q, want %q", step.verb, said, step.says)
		}
		calls, err := os.ReadFile(filepath.Join(root, "called"))
		if err != nil && step.calls != "" || string(calls) != step.calls {
			t.Errorf("rpm %s calls\n%s\nwant\n%s%v", step.verb, calls, step.calls, err)
		}
		_ = os.Remove(filepath.Join(root, "called"))
		if step.verb == "-i" && !strings.Contains(command(t, "chroot", root, "/usr/bin/meshnetd", "version"), "v0.0.1") {
			t.Error("what is installed is of another version")
		}
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/meshnetd")); err == nil {
		t.Error("the program is left")
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
