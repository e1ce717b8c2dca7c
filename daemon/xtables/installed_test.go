// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A variant is named once, by whichever name its programs are found, and only with all of them.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	program := func(name, says string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"iptables-nft", "iptables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			program(name+verb, "iptables v99.1 (nf_tables)")
		}
	}
	program("iptables-legacy", "iptables v98.1 (legacy)")
	got := Installed(t.Context())
	if n := len(slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s != "iptables-nft 99.1" })); n != 1 {
		t.Errorf("%d times iptables-nft 99.1 in %q", n, got)
	}
	if slices.Contains(got, "iptables-legacy 98.1") {
		t.Errorf("programs are missing: %q", got)
	}
}
