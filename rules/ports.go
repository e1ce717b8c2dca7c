// SPDX-License-Identifier: Apache-2.0

package rules

// mostNumbers is how many ports one DestinationPorts has room for; a range takes two.
const mostNumbers = 15

// PortLists divides ports into so few lists that each has room in one rule.
func PortLists(ports []PortRange) (lists []DestinationPorts) {
	room := 0
	for _, r := range ports {
		numbers := 1
		if r.First != r.Last {
			numbers = 2
		}
		if room < numbers {
			lists, room = append(lists, nil), mostNumbers
		}
		lists[len(lists)-1] = append(lists[len(lists)-1], r)
		room -= numbers
	}
	return lists
}
