// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// life is a node on which meshnetd is installed.
type life struct {
	*node
	first *pod
	rules string // of the first pod
}

// begin boots a node that has the package in /shared, and nothing of it installed.
func begin(t *testing.T) *life {
	t.Helper()
	tree, text := require(t), deb(t)
	n := bootNode(t, tree)
	if err := os.WriteFile(filepath.Join(n.shared, "v1.0.0.deb"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return &life{node: n}
}

const configuration = "/etc/meshnetd/meshnetd.toml"

// configure writes the configuration. A machine of namespaces has no network namespace that is known to be a host's.
func (l *life) configure(t *testing.T, lines string) {
	t.Helper()
	l.write(t, configuration, "host_netns = \"/proc/self/ns/net\"\n"+lines)
}

// dropIn changes the unit until the next call; "" leaves it as it is.
func (l *life) dropIn(t *testing.T, lines string) {
	t.Helper()
	const dir = "/run/systemd/system/meshnetd.service.d"
	if lines == "" {
		l.must(t, "rm", "-r", dir)
	} else {
		l.must(t, "mkdir", "-p", dir)
		l.must(t, "sh", "-c", `printf '[Service]\n%s\n' "$1" >"$2"`, "sh", lines, dir+"/test.conf")
	}
	l.must(t, "systemctl", "daemon-reload")
}

// stays checks that the first pod has the rules it had in the beginning, whatever happened to meshnetd.
func (l *life) stays(t *testing.T) {
	t.Helper()
	if got := l.first.rules(t); got != l.rules {
		t.Errorf("rules of the first pod changed from\n%s\nto\n%s", l.rules, got)
	}
}

// whole asks meshnetd to compare pods with the kernel.
func (l *life) whole(t *testing.T, which string) {
	t.Helper()
	if out, err := l.run(t.Context(), "meshnetd", "verify", which); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// restarted waits for another process that is ready.
func (l *life) restarted(t *testing.T, before string) {
	t.Helper()
	l.eventually(t, "systemd starts meshnetd again", func() bool {
		pid := l.show("meshnetd", "MainPID")
		return pid != before && pid != "0" && l.show("meshnetd", "ActiveState") == "active"
	})
}

func (l *life) show(unit, property string) string {
	out, _ := l.run(context.Background(), "systemctl", "show", "--property="+property, "--value", unit)
	return strings.TrimSpace(out)
}

func (l *life) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	if err := poll(within(t, time.Minute), is); err != nil {
		t.Fatalf("it does not come to be that %s: %v", what, err)
	}
}
