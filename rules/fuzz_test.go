// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What is understood must be printed and read back the same; what is not must come back as it was.
func FuzzParseRule(f *testing.F) {
	for _, tt := range ruleTable {
		f.Add(tt.text)
	}
	for _, seed := range []string{"", "!", "-j", "-m owner --uid-owner 1 --gid-owner 2 -j RETURN", "-s 10.0.0.1 -j X", "-j \"X\"",
		"-p tcp -m tcp --sport 1 --dport 2 -j X", "-d ::ffff:1.2.3.0/120 -j X", "-m mark --mark 010 -j RETURN", "-j RETURN -j DROP",
		"-m connmark --mark 0x1 --mark 0x2 -j RETURN", "-p tcp -p udp -m udp --dport 1 -j X", "-i -j -j X", "-j A\u00a0B"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := rules.ParseRule(text)
		printed := r.String()
		if foreign, ok := r.Target.(rules.Foreign); ok {
			if printed != text || string(foreign) != text {
				t.Errorf("foreign %q printed as %q", text, printed)
			}
			return
		}
		again := rules.ParseRule(printed)
		if _, foreign := again.Target.(rules.Foreign); foreign || again.String() != printed {
			t.Errorf("%q printed as %q, read back as %#v", text, printed, again)
		}
	})
}

// Whatever iptables-save says: an error or a rule set, and of every rule set ours can be taken out.
func FuzzParseSave(f *testing.F) {
	f.Add(smallPlan)
	f.Add("*nat\n:OUTPUT ACCEPT [0:0]\n[1:2] -A OUTPUT -j RETURN\nCOMMIT\n")
	f.Add("*mangle\n:ISTIO_INBOUND -\n:X -\n-A X -j ISTIO_INBOUND\n-A ISTIO_INBOUND -m mark --mark 0x539 -j RETURN\nCOMMIT\n")
	f.Add("*nat\n:OUTPUT ACCEPT\n")
	f.Add("*\n:\nCOMMIT\n")
	f.Add("*nat\n:PREROUTING ACCEPT\n:ISTIO_REDIRECT -\n-A PREROUTING -i a -j RETURN\n-A PREROUTING -i a -j ISTIO_REDIRECT\n-A PREROUTING -j LOG\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		have, err := rules.ParseSave(rules.IPv6, strings.NewReader(text))
		if err != nil {
			if err.Error() == "" || !have.Empty() {
				t.Errorf("error %q with %d tables", err, len(have.Tables))
			}
			return
		}
		ours := istio.New(istio.Defaults{}).Footprint()
		for _, want := range []rules.Ruleset{{Family: rules.IPv6}, have} {
			change, diffs := rules.Change(have, want, ours), rules.Diff(have, want, ours)
			if (change == "") != (len(diffs) == 0) {
				t.Errorf("Change and Diff disagree: %v\n%s", diffs, change)
			}
		}
	})
}
