// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/podsapi"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) count(event string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), "event="+event+" ")
}

// podOf is the message of a pod with one container that runs as a user.
func podOf(uid string, user int64) []byte {
	return podsapi.Pod(lab.PodSpec{Namespace: "shop", Name: "pod-" + uid, UID: uid}, lab.ContainerSpec{Name: "app", User: user})
}

func start(t *testing.T, s *podsapi.Server) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
}

// socketPath is one that is short enough for the kernel.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pods")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// watching runs a source on the socket.
func watching(t *testing.T, socket string, expected bool) (*Source, *journal) {
	t.Helper()
	log := &journal{}
	s := New(socket, expected, slog.New(slog.NewTextHandler(log, nil)))
	s.pause, s.limit = time.Millisecond, time.Minute // a busy machine answers late
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, log
}

// until waits until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func complete(s *Source) func() bool {
	return func() bool { return s.State().Condition == Complete }
}

func user(s *Source, uid string) int64 {
	pod, ok := s.Known(uid)
	if !ok || len(pod.Containers) != 1 || pod.Containers[0].UID == nil {
		return -1
	}
	return *pod.Containers[0].UID
}

func TestWatch(t *testing.T) {
	changes := make(chan func(podsapi.Send) error)
	srv := &podsapi.Server{Socket: socketPath(t)}
	srv.Watch = func(send podsapi.Send, ctx context.Context) error {
		if err := errors.Join(send(podsapi.Added, podOf("a", 1)), send(podsapi.Added, podOf("b", 2)), send(podsapi.Synced, nil)); err != nil {
			return err
		}
		for {
			select {
			case change := <-changes:
				if err := change(send); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "all pods are known", complete(s))
	if user(s, "a") != 1 || user(s, "b") != 2 || s.State().Pods != 2 {
		t.Fatalf("known: %d pods", s.State().Pods)
	}
	tell := func(k podsapi.Kind, pod []byte) {
		changes <- func(send podsapi.Send) error { return send(k, pod) }
	}
	tell(podsapi.Modified, podOf("a", 3))
	tell(podsapi.Deleted, podsapi.Message(1, podsapi.Message(1, "pod-b", 3, "shop", 5, "b")))
	tell(podsapi.Added, podOf("c", 4))
	until(t, "the changes are known", func() bool { return user(s, "c") == 4 })
	if user(s, "a") != 3 || user(s, "b") != -1 {
		t.Errorf("a runs as %d, b as %d", user(s, "a"), user(s, "b"))
	}
	tell(podsapi.Added, []byte("nonsense")) // it is said, and the watch goes on
	tell(podsapi.Added, podOf("d", 5))
	until(t, "what follows nonsense is known", func() bool { return user(s, "d") == 5 })
	if state := s.State(); state.Left != 1 || state.LeftWhy == "" {
		t.Errorf("a pod that cannot be read is not told of: %+v", state)
	}
}

// A watch that is given up is taken up again, without a word; pods that went meanwhile are forgotten.
func TestDroppedWatch(t *testing.T) {
	drop := make(chan struct{})
	srv := &podsapi.Server{Socket: socketPath(t)}
	var times int
	srv.Watch = func(send podsapi.Send, ctx context.Context) error {
		if times++; times == 1 {
			if err := errors.Join(send(podsapi.Added, podOf("a", 1)), send(podsapi.Added, podOf("gone", 1)), send(podsapi.Synced, nil)); err != nil {
				return err
			}
			<-drop
			return status.Error(codes.ResourceExhausted, "watch client channel closed")
		}
		return podsapi.Telling(podOf("a", 2))(send, ctx)
	}
	start(t, srv)
	s, log := watching(t, srv.Socket, false)
	until(t, "the first watch is complete", complete(s))
	close(drop)
	until(t, "the second watch is complete", func() bool { return user(s, "a") == 2 && complete(s)() })
	if _, known := s.Known("gone"); known {
		t.Error("a pod is known that the second watch does not tell of")
	}
	if n := log.count(EventLost); n > 0 {
		t.Errorf("said %d times that the kubelet is lost", n)
	}
}

// While the kubelet starts nothing is known, and nothing but one line is said of it.
func TestStartingKubelet(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t)}
	var mu sync.Mutex
	refused := 0
	srv.Watch = func(send podsapi.Send, ctx context.Context) error {
		mu.Lock()
		starting := refused < 5
		refused++
		mu.Unlock()
		if starting {
			return status.Error(codes.FailedPrecondition, "Kubelet is initializing")
		}
		return podsapi.Telling(podOf("a", 1))(send, ctx)
	}
	start(t, srv)
	s, log := watching(t, srv.Socket, true)
	until(t, "it answers in the end", complete(s))
	if lost, known := log.count(EventLost), log.count(EventKnown); lost != 1 || known != 1 {
		t.Errorf("said %d times that it does not tell, and %d times that it does", lost, known)
	}
}

// A socket that goes and comes again: what was known stays, and is said once each way.
func TestRestartedKubelet(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(podOf("a", 1))}
	s, log := watching(t, srv.Socket, false)
	if state := s.State(); state.Condition != Absent {
		t.Errorf("without a socket it is %q", state.Condition)
	}
	start(t, srv)
	until(t, "the socket is found", complete(s))
	srv.Stop()
	until(t, "the socket's end is said", func() bool { return log.count(EventLost) == 1 })
	if user(s, "a") != 1 {
		t.Error("what was known is forgotten with the kubelet")
	}
	again := &podsapi.Server{Socket: srv.Socket, Watch: podsapi.Telling(podOf("a", 7))}
	start(t, again)
	until(t, "it is known anew", func() bool { return user(s, "a") == 7 && complete(s)() })
	if lost, known := log.count(EventLost), log.count(EventKnown); lost != 1 || known != 1 {
		t.Errorf("said %d times that it is lost, and %d times that it is back", lost, known)
	}
}

// A node without the socket costs no word.
func TestAbsent(t *testing.T) {
	s, log := watching(t, socketPath(t), false)
	if _, known := s.Pod(t.Context(), "a", ""); known {
		t.Error("a pod is known by nobody")
	}
	if state := s.State(); state.Unanswered != 1 || state.Condition != Absent {
		t.Errorf("got %+v", state)
	}
	if log.count(EventLost)+log.count(EventKnown) > 0 {
		t.Error("it is said that there is none")
	}
}

// A pod that the watch has not told of is asked for once, and is known from then on.
func TestAsk(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(podOf("a", 1)),
		Get: func(_ context.Context, uid string) ([]byte, error) { return podOf(uid, 9), nil }}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "the watch is complete", complete(s))
	for _, uid := range []string{"a", "new", "new"} {
		if _, known := s.Pod(t.Context(), uid, ""); !known {
			t.Errorf("%s is not known", uid)
		}
	}
	if state := s.State(); srv.Questions() != 1 || state.Known != 2 || state.Asked != 1 || state.Unanswered != 0 {
		t.Errorf("%d questions; %+v", srv.Questions(), state)
	}
}

// A container that the watch has not told of, as one that was added to its pod just now, is no container without anything: it is
// asked for, and known from then on, unless the watch tells something else meanwhile.
func TestContainerIsAskedFor(t *testing.T) {
	debugged := append(podOf("a", 1), podsapi.Message(2, podsapi.Message(34, podsapi.Message(1, podsapi.Message(1, "debugger"))))...)
	var meanwhile func()
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(podOf("a", 1)),
		Get: func(context.Context, string) ([]byte, error) { meanwhile(); return debugged, nil }}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "the watch is complete", complete(s))
	for _, tt := range []struct {
		name      string
		meanwhile func()
		known     int // containers, afterwards
	}{
		{"the pod is told of again", func() { s.tell(modified, podOf("a", 7)) }, 1},
		{"the pod is deleted", func() { s.tell(deleted, podOf("a", 1)) }, 0},
		{"nothing happens", func() {}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.tell(modified, podOf("a", 1))
			meanwhile = tt.meanwhile
			asked := srv.Questions()
			if pod, known := s.Pod(t.Context(), "a", "app"); !known || len(pod.Containers) != 1 || srv.Questions() != asked {
				t.Errorf("of a container that is known it is asked: %d containers", len(pod.Containers))
			}
			if pod, _ := s.Pod(t.Context(), "a", "debugger"); pod.Container("debugger") == nil || srv.Questions() != asked+1 {
				t.Errorf("told of it: %+v", pod)
			}
			if pod, _ := s.Known("a"); len(pod.Containers) != tt.known {
				t.Errorf("afterwards %d containers are known, want %d", len(pod.Containers), tt.known)
			}
		})
	}
	if pod, known := s.Pod(t.Context(), "a", "debugger"); !known || pod.Container("debugger") == nil || srv.Questions() != 3 {
		t.Errorf("it is asked for again: %d questions", srv.Questions())
	}
}

// A kubelet that does not answer, answers about another pod, or nonsense, leaves the pod unknown; nobody waits for it.
func TestBadAnswers(t *testing.T) {
	hangs := make(chan struct{})
	defer close(hangs)
	answer := func(uid string) ([]byte, error) {
		switch uid {
		case "hangs":
			<-hangs
		case "other":
			uid = "another"
		case "nonsense":
			return []byte{0xff, 0xff}, nil
		case "limited":
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limiter")
		}
		return podOf(uid, 1), nil
	}
	questions := []string{"hangs", "other", "nonsense", "limited"}
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(), Get: func(_ context.Context, uid string) ([]byte, error) { return answer(uid) }}
	start(t, srv)
	s, _ := watching(t, srv.Socket, false)
	until(t, "the watch is complete", complete(s))
	s.limit = askLimit
	for _, uid := range questions {
		if _, known := s.Pod(t.Context(), uid, ""); known { // it returns, or the test does not end
			t.Errorf("%s is known", uid)
		}
	}
	if state := s.State(); state.Unanswered != len(questions) || state.Asked != 0 {
		t.Errorf("got %+v", state)
	}
}

// Nobody but root is believed.
func TestListenerIsRoot(t *testing.T) {
	srv := &podsapi.Server{Socket: socketPath(t), Watch: podsapi.Telling(podOf("a", 1))}
	if err := os.Chmod(filepath.Dir(srv.Socket), 0o777); err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with its user
		defer close(listening)
		if _, _, problem := unix.RawSyscall(unix.SYS_SETRESUID, 1, 1, 1); problem != 0 {
			t.Error(problem)
			return
		}
		start(t, srv)
	}()
	<-listening
	s, _ := watching(t, srv.Socket, false)
	until(t, "the listener is refused", func() bool { return strings.Contains(s.State().Why, "user 1 listens there") })
}

func TestTableIsBounded(t *testing.T) {
	s := New("", false, slog.New(slog.DiscardHandler))
	for i := range mostPods + 10 {
		s.take(nil, event{added, podOf(fmt.Sprint(i), 1)}, i == 0)
	}
	if state := s.State(); state.Pods != mostPods || state.Left != 10 {
		t.Errorf("%d pods are kept, and %d are left", state.Pods, state.Left)
	}
	large := New("", false, slog.New(slog.DiscardHandler))
	word := strings.Repeat("x", 60<<10)
	for i := range 2048 {
		uid := fmt.Sprint(i)
		large.take(nil, event{added, podsapi.Message(1, podsapi.Message(1, "p", 3, "n", 5, uid), 2, podsapi.Message(2, podsapi.Message(1, "app", 4, word)))}, i == 0)
	}
	if large.table.bytes > mostBytes || large.State().Left == 0 {
		t.Errorf("%d bytes are kept, and %d pods are left", large.table.bytes, large.State().Left)
	}
	for uid := range large.table.pods {
		large.table.drop(uid)
	}
	if large.table.bytes != 0 {
		t.Errorf("%d bytes are counted of no pod", large.table.bytes)
	}
}
