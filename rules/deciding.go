// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"
)

// mostDeciding is how many times budget.bytes the labels and annotations may have that decide about a pod: those of all meshes
// together, of which each has that budget for its own.
const mostDeciding = 4

// Deciding returns the pod with those of its labels and annotations that decide about it, bounded: a mesh or a policy of the node
// reads them. Others may have a quarter of a megabyte; of those that may be misspelt it has the keys.
func (n Node) Deciding(pod Pod) Pod { return n.bounded(n.read(pod)) }

// bounded returns a pod that says too much without what policies ignore, and where that is not enough with the beginnings of what
// meshes read, by which it belongs to one or none as before: no mark that counts by its value is as long. It keeps how much was cut,
// by which it is rejected where it belongs to one.
func (n Node) bounded(pod Pod) Pod {
	if pod.says(everything) <= n.mostSaid() {
		return pod
	}
	pod = pod.only(func(key string) bool {
		policy, policed := n.annotationPolicy(key, pod.Namespace)
		return policed && policy.Otherwise == Refuse || n.reads(key)
	})
	said := pod.says(everything)
	if said <= n.mostSaid() {
		return pod
	}
	pod = pod.only(n.reads)
	pod.Labels, pod.Annotations = beginnings(pod.Labels), beginnings(pod.Annotations)
	pod.Said += said - pod.says(everything)
	return pod
}

func beginnings(all map[string]string) map[string]string {
	short := make(map[string]string, len(all))
	for key, value := range all {
		short[key] = strings.Clone(value[:min(len(value), longestMark)])
	}
	return short
}

// longestMark is longer than what injectors write to mark a pod.
const longestMark = 512

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
// only against it.
func (n Node) Remembered(pod Pod, d Decision) Pod {
	pod.Specified, pod.Unreadable = false, "" // powers are not remembered
	if pod = n.read(pod); d.Reason != ReasonForbidden {
		pod = pod.only(n.reads)
	}
	return n.bounded(pod)
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
	switch bytes := pod.says(n.reads); {
	case bytes > n.mostSaid():
		return fmt.Sprintf("the labels and annotations that meshes read take %d bytes: more than the %d that a pod may have (%d times budget.bytes)",
			bytes, n.mostSaid(), mostDeciding)
	case pod.Said > 0: // by another configuration, which allowed less
		return fmt.Sprintf("the labels and annotations that meshes read take %d bytes: more than was allowed a pod when they were read "+
			"(%d times budget.bytes); a restart of meshnetd reads them again", bytes, mostDeciding)
	}
	return ""
}

// reads reports whether a mesh reads a label or annotation of that key.
func (n Node) reads(key string) bool {
	return n.some(func(mesh Mesh) bool { return mesh.Reads(key) })
}
