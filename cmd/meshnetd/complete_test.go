// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/google/go-cmp/cmp"
)

// A shell asks for what may follow; where nobody can be asked, there is nothing, and nothing is said.
func TestCompletion(t *testing.T) {
	socket := daemonWith(t, pod("shop", "cart", "b", told{}), pod("default", "web", "a", told{}), pod("shop", "cart", "c", told{}))
	none := filepath.Join(t.TempDir(), "none")
	pods := []string{"default/web\tprotected", "shop/cart\tprotected", ":4"}
	for _, tt := range []struct {
		args, socket string
		want         []string
	}{
		{"explain", socket, pods}, {"verify", socket, pods}, {"status", socket, pods}, {"trace", socket, pods},
		{"explain", none, []string{":4"}}, {"trace", none, []string{":4"}}, {"status", none, []string{":4"}},
		{"explain shop/cart", socket, []string{":4"}},
		{"trace shop/cart", socket, []string{"tcp", "udp", ":4"}}, {"trace -f x", socket, []string{"tcp", "udp", ":4"}}, {"trace shop/cart tcp", socket, []string{":4"}},
		{"status --outcome", none, append(append([]string{}, outcomes()...), ":4")},
		{"plan --output", "", []string{"text", "restore", "json", ":4"}},
	} {
		args := append([]string{cobra.ShellCompRequestCmd}, strings.Fields(tt.args)...)
		if tt.socket != "" {
			args = append([]string{args[0], args[1], "--config", testdata("default.toml"), "--socket", tt.socket}, args[2:]...)
		}
		_, out, err := execute(t, "", append(args, "")...)
		if diff := cmp.Diff(tt.want, strings.Fields(strings.ReplaceAll(strings.TrimSpace(out), "\t", "\u00a0"))); err != nil || diff != "" {
			got := strings.Split(strings.TrimSpace(out), "\n")
			if diff = cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s: %v (-want +got):\n%s", tt.args, err, diff)
			}
		}
	}
}

// Whoever asks for help sees an example, and how the command ends.
func TestHelp(t *testing.T) {
	for _, c := range root().Commands() {
		if c.Hidden || !c.IsAvailableCommand() {
			continue
		}
		if !strings.Contains(c.Example, "meshnetd "+c.Name()) {
			t.Errorf("%s has no example", c.Name())
		}
		if !strings.Contains(c.Long, "Exit 0") {
			t.Errorf("%s does not say how it ends", c.Name())
		}
	}
}
