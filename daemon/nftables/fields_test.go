// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Each field of a match but the comment is loaded from somewhere, and the judge of effects knows it.
func TestEveryFieldHasItsRow(t *testing.T) {
	pod := effect.NewPod(nil)
	for i := range rules.Fields {
		f := rules.Field(i)
		if fields[f].from == "" && f != rules.FieldComment {
			t.Errorf("nobody knows where %s is loaded from", f)
		}
		if _, known := pod.Conditions(rules.IPv4, rules.Match{Field: f}); !known {
			t.Errorf("nobody knows what %s asks for", f)
		}
	}
	if xtMatches[rules.FieldComment].name == "" {
		t.Error("a comment is asked by nothing")
	}
}
