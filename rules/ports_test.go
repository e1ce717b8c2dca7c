// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
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
			got, all = append(got, len(list.Ports())), append(all, list.Ports()...)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || fmt.Sprint(all) != fmt.Sprint(tt.ports) {
			t.Errorf("%s: %v\n%s", name, all, diff)
		}
	}
}

// What is merged holds for the same ports as before, each range where the first of it stood; a list that is not long stays
// as it is written.
func TestMergePorts(t *testing.T) {
	long := "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29"
	for _, tt := range []struct{ list, want string }{
		{"", ""}, {"80,81,80,79-90", "80,81,79-90"}, {long, long}, {long + "," + long, long},
		{long + ",31", long + ",31"},
		{"81," + long + ",80,90-100,79", "79-81," + long + ",90-100"},
		{"65535," + long + ",65534,0", "65534-65535,0-1,3,5,7,9,11,13,15,17,19,21,23,25,27,29"},
		{long + ",10-20,0-65535,5", "0-65535"},
	} {
		list, _ := rules.ParsePorts(tt.list)
		want, _ := rules.ParsePorts(tt.want)
		if diff := cmp.Diff(want, rules.MergePorts(list)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.list, diff)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var list []rules.PortRange
		for range random.IntN(40) {
			first := uint16(random.IntN(80) * 17)
			list = append(list, rules.PortRange{First: first, Last: first + uint16(random.IntN(60))})
		}
		merged := rules.MergePorts(list)
		for port := uint16(0); port < 1500; port++ {
			if held, holds := contain(list, port), contain(merged, port); held != holds {
				t.Fatalf("%d in %v: %t, in %v: %t", port, list, held, merged, holds)
			}
		}
		if len(list) > 40 || len(merged) > len(list) {
			t.Fatalf("%v is longer than %v", merged, list)
		}
	}
}

func contain(list []rules.PortRange, port uint16) bool {
	return slices.ContainsFunc(list, func(r rules.PortRange) bool { return r.Contains(port) })
}

func TestMergePrefixes(t *testing.T) {
	long := "10.0.0.0/32,10.0.0.2/32,10.0.0.4/32,10.0.0.6/32,10.0.0.8/32,10.0.0.10/32,10.0.0.12/32,10.0.0.14/32,fd00::/16,fd02::/16,fd04::/16,fd06::/16,fd08::/16,fd0a::/16,fd0c::/16"
	for _, tt := range []struct{ list, want string }{
		{"10.0.0.0/9,10.128.0.0/9,10.0.0.0/8", "10.0.0.0/9,10.128.0.0/9,10.0.0.0/8"},
		{long + "," + long, long},
		{"11.0.0.0/9," + long + ",11.128.0.0/9,10.0.0.4/32", "11.0.0.0/8," + long},
		{long + ",10.0.0.1/30,fd00::/8", "10.0.0.1/30,10.0.0.4/32,10.0.0.6/32,10.0.0.8/32,10.0.0.10/32,10.0.0.12/32,10.0.0.14/32,fd00::/8"},
		{long + ",::/0,0.0.0.0/1,128.0.0.0/1", "0.0.0.0/0,::/0"},
	} {
		list, problem := rules.ParsePrefixes(tt.list)
		want, problem2 := rules.ParsePrefixes(tt.want)
		if problem+problem2 != "" {
			t.Fatal(problem, problem2)
		}
		if diff := cmp.Diff(want, rules.MergePrefixes(list), samePrefix); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.list, diff)
		}
	}
	random := rand.New(rand.NewPCG(1, 3))
	for range 2000 {
		var list []netip.Prefix
		for range random.IntN(40) {
			bits := 24 + random.IntN(9)
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(2)), byte(random.IntN(256))}), bits))
		}
		merged := rules.MergePrefixes(list)
		for i := range 512 {
			addr := netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)})
			in := func(list []netip.Prefix) bool {
				return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
			}
			if held, holds := in(list), in(merged); held != holds {
				t.Fatalf("%s in %v: %t, in %v: %t", addr, list, held, merged, holds)
			}
		}
	}
}
