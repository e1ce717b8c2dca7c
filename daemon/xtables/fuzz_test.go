// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"slices"
	"strings"
	"testing"
)

// Whatever iptables-restore complains about, the line that is shown is one of those it was given.
func FuzzLineOf(f *testing.F) {
	f.Add("*nat\n-A X -j Y\nCOMMIT\n", "iptables-restore v1.8.9 (nf_tables): line 2: chain Y does not exist\nError occurred at line: 2\n")
	f.Add("*nat\nCOMMIT\n", "iptables-restore: line 3 failed")
	f.Add("", "line: 1")
	f.Add("a\nb", "99999999999999999999 -1 0x2 2.")
	f.Fuzz(func(t *testing.T, input, stderr string) {
		if line := lineOf(input, stderr); line != "" && !slices.Contains(strings.Split(input, "\n"), line) {
			t.Errorf("%q is shown of %q", line, input)
		}
	})
}

// The version is what iptables itself calls so, digits and dots.
func FuzzVersionLine(f *testing.F) {
	for _, seed := range []string{"iptables v1.8.9 (nf_tables)\n", "ip6tables v1.8.10 (legacy)\n", "iptables v1.6.1\n", "iptables v (x)", "iptables", "xtables v1.8"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, out string) {
		found := versionLine.FindStringSubmatch(out)
		if found == nil {
			return
		}
		if found[1] == "" || strings.Trim(found[1], "0123456789.") != "" || !strings.HasPrefix(out, "ip") {
			t.Errorf("%q is read as %q", out, found[1])
		}
	})
}
