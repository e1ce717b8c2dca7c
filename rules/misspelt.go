// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// How many annotations of a pod are taken for misspelt ones; of how many the keys are remembered, and how long those may be.
const mostMisspelt, mostUnread, longestUnread = 5, 16, 96

// known returns all labels and annotations that meshes read.
func (n Node) known() (keys []string) {
	for _, mesh := range n.all() {
		keys = append(keys, mesh.Keys()...)
	}
	return keys
}

// unread returns the first keys of annotations with a mesh's prefix that no mesh reads, by name, among them those that the pod is
// remembered with. What they may be meant for is looked for when somebody asks.
func (n Node) unread(pod Pod) []string {
	var domains []string
	for _, key := range n.known() {
		if d := domain(key); strings.Contains(key, "/") && !slices.Contains(domains, d) {
			domains = append(domains, d)
		}
	}
	unread := slices.Clone(pod.Unread)
	for key := range pod.Annotations {
		at := strings.IndexByte(key, '/')
		if at < 0 || len(key) > longestUnread ||
			!slices.ContainsFunc(domains, func(d string) bool { return strings.HasSuffix(key[:at], d) }) || n.reads(key) {
			continue
		}
		if i, there := slices.BinarySearch(unread, key); !there && i < mostUnread {
			unread = slices.Insert(unread, i, key)
			unread = unread[:min(len(unread), mostUnread)]
		}
	}
	return unread
}

// Misspelt says of annotations that no mesh reads which one was meant, if they are nearly one that is read.
func (n Node) Misspelt(pod Pod) (said []string) {
	known := n.known()
	keys := slices.AppendSeq(slices.Clone(pod.Unread), maps.Keys(pod.Annotations))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		if len(said) == mostMisspelt {
			break
		}
		if near := nearest(key, known); near != "" && !n.reads(key) {
			said = append(said, fmt.Sprintf("annotation %s is read by no mesh: is %s meant?", key, near))
		}
	}
	return said
}

// nearest returns what a key is a misspelt one of, or "": two letters may be others, and any of another case, or the name is
// right and its prefix is another mesh's annotations'.
func nearest(key string, known []string) string {
	const mostLetters = 2
	_, name, _ := strings.Cut(key, "/")
	best, near := mostLetters+1, ""
	for _, k := range known {
		prefix, right, _ := strings.Cut(k, "/")
		if len(key) < len(k)-mostLetters || len(key) > len(k)+mostLetters {
			if right != "" && name == right && strings.HasSuffix(prefix, domain(key)) && best > mostLetters {
				near = k
			}
			continue
		}
		if d := Distance(strings.ToLower(key), strings.ToLower(k), best); d < best {
			best, near = d, k
		}
	}
	return near
}

// domain returns the last two labels of a key's prefix, such as "istio.io".
func domain(key string) string {
	prefix, _, _ := strings.Cut(key, "/")
	rest := prefix[:max(0, strings.LastIndexByte(prefix, '.'))]
	return prefix[strings.LastIndexByte(rest, '.')+1:]
}

// Distance is how many letters have to be put in, left out or changed to make b of a; most, where it is that or more.
func Distance(a, b string, most int) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last, least := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
			least = min(least, cost)
		}
		if least >= most {
			return most
		}
	}
	return min(row[len(b)], most)
}
