// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
)

// mostDeciding is how many times budget.bytes the labels and annotations may have that decide about a pod: those of all meshes
// together, of which each has that budget for its own.
const mostDeciding = 4

// Deciding returns the pod with those of its labels and annotations that decide about it, bounded: a mesh or a policy of the node
// reads them. Others may have a quarter of a megabyte; of those that may be misspelt it has the keys.
func (n Node) Deciding(pod Pod) Pod {
	kept := n.read(pod)
	if kept.says(everything) <= n.mostSaid() {
		return kept
	}
	if d := n.Decide(kept); d.Action != Skip {
		return n.Remembered(kept, d)
	}
	// No mark is as long. It stays outside the mesh without what is, and policies concern it no more.
	return kept.only(func(key string) bool {
		return n.reads(key) && len(pod.Labels[key]) <= longestWord && len(pod.Annotations[key]) <= longestWord
	})
}

// read returns the pod with those of its labels and annotations that a mesh or a policy of the node reads, and the keys of others.
func (n Node) read(pod Pod) Pod {
	pod.Unread = n.unread(pod)
	return pod.only(func(key string) bool {
		_, policed := n.annotationPolicy(key, pod.Namespace)
		return policed || n.reads(key)
	})
}

func everything(string) bool { return true }

// Remembered returns as much of a pod that was decided about as decides the same again, bounded. What policies read counts
// only against it. Of one that says too much it keeps how much that is, by which it is rejected.
func (n Node) Remembered(pod Pod, d Decision) Pod {
	pod.Specified, pod.Unreadable = false, "" // powers are not remembered
	if pod = n.read(pod); d.Reason != ReasonForbidden {
		pod = pod.only(n.reads)
	}
	if bytes := pod.says(everything); bytes > n.mostSaid() {
		pod.Labels, pod.Annotations, pod.Said = nil, nil, bytes
	}
	return pod
}

// only returns the pod with those of its labels and annotations alone.
func (p Pod) only(kept func(key string) bool) Pod {
	p.Labels, p.Annotations = only(p.Labels, kept), only(p.Annotations, kept)
	return p
}

// only returns those entries alone, where there are others. A clone would keep room for all of them.
func only(all map[string]string, kept func(key string) bool) map[string]string {
	n := 0
	for key := range all {
		if kept(key) {
			n++
		}
	}
	if n == len(all) {
		return all
	}
	some := make(map[string]string, n)
	for key, value := range all {
		if kept(key) {
			some[key] = value
		}
	}
	return some
}

// says is how many bytes those of the pod's labels and annotations take that count.
func (p Pod) says(counts func(key string) bool) int {
	bytes := p.Said
	for _, all := range []map[string]string{p.Labels, p.Annotations} {
		for key, value := range all {
			if counts(key) {
				bytes += bytesOfKey + len(key) + len(value)
			}
		}
	}
	return bytes
}

func (n Node) mostSaid() int { return mostDeciding * n.Budget.orStandard().Bytes }

// tooMuch says that more decides about the pod than about any, "" where that is not so.
func (n Node) tooMuch(pod Pod) string {
	bytes := pod.says(n.reads)
	if bytes <= n.mostSaid() {
		return ""
	}
	return fmt.Sprintf("the labels and annotations that meshes read take %d bytes: more than the %d that a pod may have (%d times budget.bytes)",
		bytes, n.mostSaid(), mostDeciding)
}

// reads reports whether a mesh reads a label or annotation of that key.
func (n Node) reads(key string) bool {
	reads := func(mesh Mesh) bool { return mesh.Reads(key) }
	return slices.ContainsFunc(n.Meshes, reads) || slices.ContainsFunc(n.Disabled, reads)
}
