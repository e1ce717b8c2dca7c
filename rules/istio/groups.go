// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// ownerGroups reads groups. Names are not resolved: they are in the image's files, which nobody vouches for. A list of the
// only groups that are captured does not count where it has one, and one of exceptions without it: more is captured, as by
// Istio's CNI plugin, which looks at neither list.
func (in *Intent) ownerGroups(name, value string) ([]uint32, error) {
	items := strings.Split(value, ",")
	named := func(item string) bool {
		_, err := strconv.ParseInt(strings.TrimSpace(item), 10, 64)
		return strings.TrimSpace(item) != "" && strings.TrimSpace(item) != "*" && err != nil
	}
	if i := slices.IndexFunc(items, named); i >= 0 {
		note := fmt.Sprintf("container %s: %s: %q is no number, and names of groups are not resolved: ", containerProxy, name, rules.Excerpt(items[i]))
		if name == envOwnerGroups {
			in.notes = append(in.notes, note+"all groups are captured")
			return nil, nil
		}
		in.notes = append(in.notes, note+"what it sends is captured")
		value = strings.Join(slices.DeleteFunc(items, named), ",")
	}
	groups, err := ParseOwnerGroups(value)
	if err == nil && name == envOwnerGroups {
		err = CheckOwnerGroups(groups)
	}
	if err == nil && groups == nil && name == envOwnerGroupsExclude && strings.TrimSpace(value) == "*" {
		err = fmt.Errorf("%q cannot be excluded: it would leave nobody", value)
	}
	if err != nil {
		return nil, &rules.InputError{Place: "container " + containerProxy + " environment " + name, Value: value,
			Problem: err.Error()}
	}
	return groups, nil
}

// ParseOwnerGroups reads a comma-separated list of group ids. "*" is everybody, returned as nil; an empty
// list is nobody. Names are refused: they would be looked up in the node's files, not the pod's.
func ParseOwnerGroups(value string) ([]uint32, error) {
	if strings.TrimSpace(value) == "*" {
		return nil, nil
	}
	groups := []uint32{}
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		id, err := strconv.ParseUint(item, 10, 32)
		if err != nil || id > largest(32) {
			return nil, fmt.Errorf("%q is not a numeric group id", item)
		}
		groups = append(groups, uint32(id))
	}
	return groups, nil
}

// CheckOwnerGroups refuses more included groups than one rule can hold.
func CheckOwnerGroups(groups []uint32) error {
	if len(groups) > maxOwnerGroups {
		return fmt.Errorf("%d groups are too many: %d at most", len(groups), maxOwnerGroups)
	}
	return nil
}

// ParseLoopback reads the IPv4 loopback range that outbound capture leaves alone.
func ParseLoopback(value string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("not a CIDR such as 127.0.0.1/32")
	}
	if !prefix.Addr().Is4() || !prefix.Addr().IsLoopback() || prefix.Bits() < 8 {
		return netip.Prefix{}, fmt.Errorf("not within 127.0.0.0/8")
	}
	return prefix.Masked(), nil
}
