// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// LongList draws a list of ports that is so long that it is merged: many follow each other, some are there twice, and
// with a sign for them there are ranges too. It is a list of texts in JSON.
func LongList(random *rand.Rand, between string) string {
	return list(random, func() string {
		port := []int{70, 430, 8070, 65510}[random.IntN(4)] + random.IntN(26)
		if between == "" || random.IntN(3) > 0 {
			return fmt.Sprint(port)
		}
		return fmt.Sprint(max(port-random.IntN(5), 0), between, port)
	})
}

// LongRanges is LongList for prefixes around addresses of the Scenes: halves of each other, and some within others.
func LongRanges(random *rand.Rand) string {
	return list(random, func() string {
		switch n := random.IntN(8); random.IntN(4) {
		case 0:
			return fmt.Sprintf("198.51.%d.0/24", 96+n)
		case 1:
			return fmt.Sprintf("198.51.100.%d/29", 8*n)
		case 2:
			return fmt.Sprintf("10.244.%d.%d/24", n, 9*random.IntN(2)) // the last bits do not count
		default:
			return fmt.Sprintf("%s:%x::/48", []string{"2001:db8", "fd00:10"}[random.IntN(2)], n)
		}
	})
}

func list(random *rand.Rand, item func() string) string {
	items := make([]string, 16+random.IntN(24))
	for i := range items {
		items[i] = `"` + item() + `"`
	}
	return "[" + strings.Join(items, ",") + "]"
}
