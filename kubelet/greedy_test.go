// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/podsapi"
	"github.com/meshnetd/meshnetd/internal/heap"
)

// tenants is the message of a pod with this specification.
func tenants(namespace, uid string, spec ...any) []byte {
	return podsapi.Message(1, podsapi.Message(1, "pod-"+uid, 3, namespace, 5, uid), 2, podsapi.Message(spec...))
}

// unreadable is that of one with more containers than are read.
func unreadable(namespace, uid string) []byte {
	return append(tenants(namespace, uid), podsapi.Message(2, bytes.Repeat(podsapi.Message(2, ""), 1025))...)
}

// large is that of one which takes as much as any may.
func large(namespace, uid string) []byte {
	word := podsapi.Message(2, podsapi.Message(1, strings.Repeat("c", 63), 4, strings.Repeat("x", 60<<10)))
	return append(tenants(namespace, uid), podsapi.Message(2, append(bytes.Repeat(word, 4), bytes.Repeat(podsapi.Message(2, podsapi.Message(1, "c")), 1000)...))...)
}

func quiet() *Source {
	s := New("", false, slog.New(slog.DiscardHandler))
	s.take(nil, event{kind: synced}, true)
	return s
}

func (s *Source) tell(k kind, pod []byte) { s.take(nil, event{k, pod}, false) }

// That a pod cannot be read is a fact of its own, which is known like any other, and no blank.
func TestUnreadablePod(t *testing.T) {
	s := quiet()
	for range 3 {
		s.tell(modified, unreadable("tenant", "u"))
	}
	pod, known := s.Known("u")
	if !known || !strings.Contains(pod.Unreadable, "more than 1024 containers") || pod.Namespace != "tenant" || pod.Name != "pod-u" {
		t.Errorf("known: %t, %+v", known, pod)
	}
	if got, known := s.Pod(t.Context(), "u", ""); !known || got.Unreadable != pod.Unreadable {
		t.Errorf("at its start: %t, %+v", known, got)
	}
	if state := s.State(); state.Left != 1 || state.Unanswered != 1 || state.Known != 0 || !strings.Contains(state.LeftWhy, "1024") {
		t.Errorf("one pod, told three times: %+v", state)
	}
	s.tell(modified, podOf("u", 7))
	if user(s, "u") != 7 || s.State().Left != 0 {
		t.Error("once it can be read it is not known")
	}
	s.tell(modified, unreadable("shop", "u"))
	s.tell(deleted, unreadable("shop", "u"))
	if _, known := s.Known("u"); known || s.table.bytes != 0 {
		t.Error("it stays when it is deleted")
	}
}

// One that the watch has not told of is asked for, and its answer is no blank either.
func TestUnreadableAnswer(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(), Get: func(_ context.Context, uid string) ([]byte, error) { return unreadable("tenant", uid), nil }}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "the watch is complete", complete(s))
	for range 2 {
		if pod, known := s.Pod(t.Context(), "u", ""); !known || pod.Unreadable == "" {
			t.Errorf("known: %t, %+v", known, pod)
		}
	}
	if state := s.State(); srv.Questions() != 1 || state.Unanswered != 2 || state.Asked != 0 {
		t.Errorf("%d questions; %+v", srv.Questions(), state)
	}
}

// A status without end, which the kubelet adds and nobody's etcd bounds, ends no watch.
func TestLargeStatus(t *testing.T) {
	status := podsapi.Message(3, podsapi.Message(3, strings.Repeat("x", 8<<20)))
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(append(podOf("a", 1), status...), podOf("b", 2))}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "all pods are known", func() bool { return complete(s)() || s.State().Why != "" })
	if user(s, "a") != 1 || user(s, "b") != 2 {
		t.Errorf("%+v", s.State())
	}
}

// Who fills the table loses what is known of pods of their own, and nobody else does. That is a fact as well.
func TestTableIsShared(t *testing.T) {
	s := quiet()
	for i := range 50 {
		s.tell(added, podOf(fmt.Sprint("honest-", i), int64(i)))
	}
	for i := range 300 {
		s.tell(added, large(fmt.Sprint("tenant-", i%3), fmt.Sprint("large-", i)))
	}
	s.tell(added, podOf("late", 9))
	if s.table.bytes > mostBytes {
		t.Errorf("%d bytes are kept", s.table.bytes)
	}
	for i := range 50 {
		if user(s, fmt.Sprint("honest-", i)) != int64(i) {
			t.Errorf("honest pod %d is not known any more", i)
		}
	}
	if user(s, "late") != 9 {
		t.Error("a pod that came last is not known")
	}
	tenants := [3]string{"tenant-0", "tenant-1", "tenant-2"}
	whole, takes := 0, map[string]int{}
	for i := range 300 {
		uid := fmt.Sprint("large-", i)
		pod, known := s.Known(uid)
		if takes[pod.Namespace] += s.table.pods[uid].bytes; !known {
			t.Fatalf("nothing is known of pod %d", i)
		}
		if e := s.table.pods[uid]; !e.small {
			whole++
		} else if pod.Name == "" || pod.Unreadable == "" && len(pod.Containers) == 0 {
			t.Errorf("kept of it: %+v", pod)
		}
	}
	for _, tenant := range tenants {
		if takes[tenant] < mostBytes/4 {
			t.Errorf("the three take %v bytes", takes)
		}
	}
	if state := s.State(); state.Left != 300-whole || !strings.Contains(state.LeftWhy, "larger than is kept") {
		t.Errorf("%d are whole: %+v", whole, state)
	}
}

// A namespace that has most for a good reason, among many that have a little less, does not lose as whom its containers run.
func TestLargeNamespaceKeepsUsers(t *testing.T) {
	s := quiet()
	word := strings.Repeat("x", 30<<10)
	for i := range 200 {
		s.tell(added, append(podOf(fmt.Sprint(i), int64(i)), podsapi.Message(2, podsapi.Message(20, podsapi.Message(1, "init", 4, word)))...))
	}
	for i := range 200 {
		s.tell(added, large(fmt.Sprint("tenant-", i%25), fmt.Sprint("large-", i)))
	}
	lost := 0
	for i := range 200 {
		pod, _ := s.Known(fmt.Sprint(i))
		if c := pod.Container("app"); c == nil || c.UID == nil || *c.UID != int64(i) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("the users of %d pods are not known any more", lost)
	}
}

// What is not kept whole is asked for again, since the kubelet can tell it.
func TestLargePodIsAskedForAgain(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(), Get: func(_ context.Context, uid string) ([]byte, error) { return large("tenant", uid), nil }}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "the watch is complete", complete(s))
	left := ""
	for i := 0; left == ""; i++ {
		uid := fmt.Sprint(i)
		s.tell(added, large("tenant", uid))
		if s.State().Left > 0 {
			for ; i >= 0; i-- {
				if uid := fmt.Sprint(i); s.table.pods[uid].small {
					left = uid
				}
			}
			break
		}
	}
	before := s.State().Left
	if pod, known := s.Pod(t.Context(), left, ""); !known || len(pod.Containers) != 1004 || len(pod.Containers[0].Args) != 1 {
		t.Errorf("known: %t, %d containers, %q", known, len(pod.Containers), pod.Unreadable)
	}
	if !s.table.pods[left].small || s.State().Left != before {
		t.Errorf("its answer takes room again, and another pod's: %+v", s.State())
	}
}

// More pods than are kept cost their own namespace some, and those that have ended cost nobody any.
func TestPodsWithoutEnd(t *testing.T) {
	s := quiet()
	s.tell(added, podOf("honest", 1))
	for i := range mostPods + 100 {
		s.tell(added, tenants("tenant", fmt.Sprint(i)))
	}
	if user(s, "honest") != 1 || s.State().Pods != mostPods {
		t.Errorf("of %d pods the one of another namespace is not known", s.State().Pods)
	}
	if _, known := s.Known(fmt.Sprint(mostPods + 99)); !known {
		t.Error("the last one is not known")
	}
	ended := quiet()
	for _, phase := range []string{"Succeeded", "Failed", "Running", "Pending"} {
		ended.tell(added, podOf(phase, 1))
		ended.tell(modified, append(podOf(phase, 1), podsapi.Message(3, podsapi.Message(1, phase))...))
	}
	if user(ended, "Succeeded") != -1 || user(ended, "Failed") != -1 || user(ended, "Running") != 1 || user(ended, "Pending") != 1 {
		t.Errorf("%d pods are known", ended.State().Pods)
	}
}

// What the table counts is what it takes.
func TestWeights(t *testing.T) {
	variables := make([]byte, 0, 1<<20)
	for i := range 3000 {
		variables = append(variables, podsapi.Message(7, podsapi.Message(1, fmt.Sprint("v", i), 2, "12"))...)
	}
	for name, spec := range map[string][]any{
		"short words":     {2, bytes.Repeat(podsapi.Message(4, "12"), 9000)},
		"short variables": {2, variables},
		"containers":      {20, "", 11, 0},
		"images":          {2, podsapi.Message(2, "registry.example/"+strings.Repeat("x", 1000))},
		"names":           {2, podsapi.Message(1, strings.Repeat("x", 1000))},
	} {
		message := tenants("tenant", "u", spec...)
		if name == "containers" {
			message = append(message, podsapi.Message(2, bytes.Repeat(podsapi.Message(2, podsapi.Message(1, "name", 15, podsapi.Message(4, 1, 8, 1))), 1000))...)
		}
		s := quiet()
		before := heap.Live()
		for i := range 100 {
			s.tell(added, append(bytes.Clone(message), podsapi.Message(1, podsapi.Message(5, fmt.Sprint(i)))...))
		}
		if took := int(heap.Live() - before); took > s.table.bytes*5/4 {
			t.Errorf("%s: they take %d bytes, and %d are counted", name, took, s.table.bytes)
		}
		if s.State().Pods != 100 {
			t.Errorf("%s: %d pods are known", name, s.State().Pods)
		}
		runtime.KeepAlive(s)
	}
}

// A pod is read while others are answered: every container of the node asks what is known of its pod.
func TestReadWithoutTheLock(t *testing.T) {
	const size = 8 << 20
	s := quiet()
	message := tenants("tenant", "u", 2, podsapi.Message(1, strings.Repeat("x", size)))
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	s.mu.Lock()
	before, done := allocated(), make(chan struct{})
	go func() { s.tell(added, message); close(done) }()
	until(t, "the pod is read although others hold the lock", func() bool { return allocated()-before >= size })
	s.mu.Unlock()
	<-done
	if _, known := s.Known("u"); !known {
		t.Error("it is not known")
	}
}
