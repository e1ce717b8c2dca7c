// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lockdown

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Whoever runs programs in a pod chooses how many connections are counted: so many are read at one look, so many different ones
// remembered of a namespace, and of all together, and so many pods of each.
const (
	mostRead     = 1024
	mostSeen     = 256
	mostSeenEver = 8192
	mostSeenPods = 3
)

// sightings are the connections that lockdowns counted and let go, by namespace. They outlive their pods.
type sightings struct {
	all map[string]*inNamespace
	n   int
}

// inNamespace is what was seen in one namespace, and in which pods.
type inNamespace struct {
	pods map[rules.Seen][]string
	more bool // there was more
}

func (t *sightings) add(pod rules.Pod, seen []rules.Seen) {
	for _, s := range seen {
		here := t.all[pod.Namespace]
		if here == nil && t.n < mostSeenEver {
			here = &inNamespace{pods: map[rules.Seen][]string{}}
			if t.all == nil {
				t.all = map[string]*inNamespace{}
			}
			t.all[pod.Namespace] = here
		}
		if here == nil {
			return
		}
		pods, known := here.pods[s]
		switch {
		case !known && (len(here.pods) >= mostSeen || t.n >= mostSeenEver):
			here.more = true
			continue
		case !known:
			t.n++
		}
		if !slices.Contains(pods, pod.Name) && len(pods) <= mostSeenPods {
			pods = append(slices.Clip(pods), pod.Name)
		}
		here.pods[s] = pods
	}
}

// Lack is what a lockdown's key would need to let pass what was counted in a namespace.
type Lack struct {
	Namespace  string
	Lockdown   rules.Lockdown
	Key, Value string
	Seen       rules.Seen
	Pods       []string // some of those that it was seen in
	More       bool     // there were more pods
}

// Lacks returns what a configuration's lockdowns lack for what was counted since the start, and the namespaces in which more was
// counted than is remembered.
func (c *Counts) Lacks(lockdownsOf func(namespace string) []rules.Lockdown) (all []Lack, more []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, namespace := range slices.Sorted(maps.Keys(c.seen.all)) {
		here := c.seen.all[namespace]
		if here.more {
			more = append(more, namespace)
		}
		for _, l := range lockdownsOf(namespace) {
			for s, pods := range here.pods {
				if key, value := l.Lacks(s); key != "" {
					all = append(all, Lack{namespace, l, key, value, s, pods[:min(len(pods), mostSeenPods)], len(pods) > mostSeenPods})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Lack) int {
		return cmp.Or(cmp.Compare(a.Lockdown.Place, b.Lockdown.Place), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Seen.String(), b.Seen.String()))
	})
	return all, more
}

// example says where one of the packets went, if any is known.
func (c Counted) example(seen []rules.Seen) string {
	i := slices.IndexFunc(seen, func(s rules.Seen) bool { return s.Class == c.Class })
	if c.Closed || i < 0 {
		return ""
	}
	return " (" + seen[i].String() + ")"
}
