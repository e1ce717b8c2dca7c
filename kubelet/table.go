// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"errors"
	"maps"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// What is kept of a node's pods at most: ten times as many as a node usually may have, and their containers' words. Where it
// is more, the namespace that has most of it loses some.
const (
	mostPods  = 4096
	mostBytes = 64 << 20
)

var (
	errMany  = errors.New("there are more pods than are kept")
	errLarge = errors.New("the node's pods are larger than is kept of them, and those of its namespace the largest")
)

// table is the pods that are known, by UID.
type table struct {
	pods  map[string]entry
	bytes int
	sets  int // how many entries there have been
	watch int // the number of this one
	left  int // how often this watch told of a pod that is not kept at all
	why   string
}

type entry struct {
	pod    rules.Pod
	bytes  int
	number int  // its own; 0 is of none
	watch  int  // that told of it last
	small  bool // not all of the pod is kept
}

// tells reports whether asking would tell no more of a container of the pod; "" is any. What cannot be read stays so.
func (e entry) tells(container string) bool {
	return !e.small && (e.pod.Unreadable != "" || container == "" || e.pod.Container(container) != nil)
}

// entryOf is of a pod, which is weighed.
func entryOf(pod rules.Pod) entry { return entry{pod: pod, bytes: weight(pod)} }

// begin begins another watch, which tells every pod first.
func (t *table) begin() {
	t.watch++
	t.left, t.why = 0, ""
}

func (t *table) put(e entry) {
	e.watch = t.watch
	t.set(e)
	if e.pod.Unreadable != "" {
		t.why = e.pod.Unreadable
	}
	if len(t.pods) > mostPods {
		t.evict(e.pod.UID)
	}
	for t.bytes > mostBytes {
		t.shrink()
	}
}

func (t *table) set(e entry) {
	if t.pods == nil {
		t.pods = map[string]entry{}
	}
	t.drop(e.pod.UID)
	t.sets++
	e.number = t.sets
	t.pods[e.pod.UID] = e
	t.bytes += e.bytes
}

// evict forgets a pod of the namespace that has most of them, other than the one that was just put in if there is another.
func (t *table) evict(last string) {
	namespace := t.greediest(func(entry) int { return 1 })
	victim := last
	for uid, e := range t.pods {
		if uid != last && e.pod.Namespace == namespace {
			victim = uid
			break
		}
	}
	t.drop(victim)
	t.leave(errMany)
}

// shrink makes the largest pod of the namespace that takes most a smaller one.
func (t *table) shrink() {
	takes := func(e entry) int {
		if e.pod.Unreadable != "" {
			return 0 // nothing is left to take
		}
		return e.bytes
	}
	namespace := t.greediest(takes)
	var largest entry
	for _, e := range t.pods {
		if e.pod.Namespace == namespace && takes(e) > takes(largest) {
			largest = e
		}
	}
	small := entryOf(smaller(largest.pod))
	if largest.small {
		small = entryOf(rules.Pod{UID: largest.pod.UID, Namespace: namespace, Name: largest.pod.Name, Unreadable: errLarge.Error()})
	}
	small.watch, small.small = largest.watch, true
	t.set(small)
	t.why = errLarge.Error()
}

// smaller is a pod without its containers' arguments and environments: as whom they run, and what they are given, is still known.
func smaller(pod rules.Pod) rules.Pod {
	pod.Containers = slices.Clone(pod.Containers)
	for i := range pod.Containers {
		c := &pod.Containers[i]
		c.Args, c.ArgsOnly, c.Env, c.Image = nil, false, nil, ""
	}
	return pod
}

// greediest is the namespace whose pods take most.
func (t *table) greediest(takes func(entry) int) (greediest string) {
	sums := map[string]int{}
	for _, e := range t.pods {
		namespace := e.pod.Namespace
		if sums[namespace] += takes(e); sums[namespace] > sums[greediest] {
			greediest = namespace
		}
	}
	return greediest
}

// leave counts a pod that is not kept.
func (t *table) leave(why error) { t.left, t.why = t.left+1, why.Error() }

func (t *table) drop(uid string) {
	t.bytes -= t.pods[uid].bytes
	delete(t.pods, uid)
}

// swept forgets what this watch has not told of.
func (t *table) swept() {
	maps.DeleteFunc(t.pods, func(_ string, e entry) bool {
		if e.watch != t.watch {
			t.bytes -= e.bytes
		}
		return e.watch != t.watch
	})
}

// unread is how many pods are not kept whole, or not at all.
func (t *table) unread() int {
	n := t.left
	for _, e := range t.pods {
		if e.small || e.pod.Unreadable != "" {
			n++
		}
	}
	return n
}

// weight is about how much memory a pod takes. Its containers share their groups.
func weight(pod rules.Pod) int {
	const each, word, variable = 512, 24, 96
	bytes := each + len(pod.UID) + len(pod.Namespace) + len(pod.Name) + len(pod.RuntimeHandler) + len(pod.Unreadable)
	for i, c := range pod.Containers {
		bytes += each + len(c.Name) + len(c.Image) + len(c.Phase)
		if i == 0 {
			bytes += 4 * len(c.Groups)
		}
		for _, text := range c.Args {
			bytes += word + len(text)
		}
		for name, value := range c.Env {
			bytes += variable + len(name) + len(value)
		}
	}
	return bytes
}
