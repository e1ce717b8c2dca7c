// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"errors"
	"maps"

	"github.com/meshnetd/meshnetd/rules"
)

// What is kept of a node's pods at most: ten times as many as a node usually may have, and their containers' words.
const (
	mostPods  = 4096
	mostBytes = 64 << 20
)

var errFull = errors.New("there are more pods, or larger ones, than are kept")

// table is the pods that are known, by UID.
type table struct {
	pods  map[string]entry
	bytes int
	watch int // the number of this one
	left  int // pods of this watch that are not kept
	why   string
}

type entry struct {
	pod   rules.Pod
	bytes int
	watch int // that told of it last
}

// begin begins another watch, which tells every pod first.
func (t *table) begin() {
	if t.pods == nil {
		t.pods = map[string]entry{}
	}
	t.watch++
	t.left, t.why = 0, ""
}

func (t *table) put(pod rules.Pod) {
	if t.pods == nil {
		t.pods = map[string]entry{}
	}
	t.drop(pod.UID)
	e := entry{pod, weight(pod), t.watch}
	if len(t.pods) >= mostPods || t.bytes+e.bytes > mostBytes {
		t.leave(errFull)
		return
	}
	t.pods[pod.UID] = e
	t.bytes += e.bytes
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

// weight is about how much memory a pod takes.
func weight(pod rules.Pod) int {
	const each = 512
	bytes := each
	for _, c := range pod.Containers {
		bytes += each + 4*len(c.Groups)
		for _, word := range c.Args {
			bytes += 16 + len(word)
		}
		for name, value := range c.Env {
			bytes += 48 + len(name) + len(value)
		}
	}
	return bytes
}
