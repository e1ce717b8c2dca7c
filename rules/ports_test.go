// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

// The kernel takes 15 numbers in one rule, of which a range is two.
func TestPortLists(t *testing.T) {
	ports := func(n int) (all []rules.PortRange) {
		for i := range uint16(n) {
			all = append(all, rules.PortRange{First: i, Last: i})
		}
		return all
	}
	wide := rules.PortRange{First: 100, Last: 200}
	for name, tt := range map[string]struct {
		ports []rules.PortRange
		want  []int // how many are in each list
	}{
		"none":               {nil, nil},
		"as many as fit":     {ports(15), []int{15}},
		"one more":           {ports(16), []int{15, 1}},
		"a range at the end": {append(ports(13), wide), []int{14}},
		"a range too many":   {append(ports(14), wide), []int{14, 1}},
		"ranges":             {[]rules.PortRange{wide, wide, wide, wide, wide, wide, wide, wide}, []int{7, 1}},
	} {
		var got []int
		var all []rules.PortRange
		for _, list := range rules.PortLists(tt.ports) {
			got, all = append(got, len(list)), append(all, list...)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || fmt.Sprint(all) != fmt.Sprint(tt.ports) {
			t.Errorf("%s: %v\n%s", name, all, diff)
		}
	}
}
