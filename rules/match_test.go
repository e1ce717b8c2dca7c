// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// Every field is one that text can name, with a name of its own, and the table of rules that tests print and parse has it.
func TestEveryFieldHasItsRow(t *testing.T) {
	var names, tried []string
	for _, tt := range ruleTable {
		for _, m := range tt.rule.Match {
			tried = append(tried, m.Field.String())
		}
	}
	for i := range rules.Fields {
		f := rules.Field(i)
		if f.String() == "" || slices.Contains(names, f.String()) {
			t.Errorf("field %d has no name of its own, but %q", f, f)
		}
		if names = append(names, f.String()); !slices.Contains(tried, f.String()) {
			t.Errorf("no rule with %s is printed and parsed", f)
		}
	}
}
