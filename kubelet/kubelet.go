// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kubelet knows the pods of this node as their kubelet does, from its Pods API: what a runtime tells of them late,
// or never. It asks no API server, and where nobody answers, nothing is known.
package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
)

// Socket is where a kubelet serves its Pods API.
const Socket = "/var/lib/kubelet/pods-api/pods-api.sock"

// askLimit is how long a pod that the watch has not told of is asked for, while the runtime waits with it.
const askLimit = 50 * time.Millisecond

// Between two watches.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 10 * time.Second
)

// Condition is a word for how the watch is.
type Condition string

// The conditions.
const (
	Absent   Condition = "absent"   // there is no socket
	Failing  Condition = "failing"  // nobody answers there, or with an error
	Reading  Condition = "reading"  // the pods that there are already are being told
	Complete Condition = "complete" // all of them are known, and changes are told
)

// State is what there is to tell of a Source.
type State struct {
	Socket     string
	Condition  Condition
	Since      time.Time
	Why        string // of Failing
	Pods       int    // that are known
	Left       int    // that were told by the last watch and are not kept whole: they cannot be read, are too many, or too large
	LeftWhy    string
	Known      int // pods that were known when they were needed
	Asked      int // those that had to be asked for
	Unanswered int // those that stayed unknown
}

// Source keeps what the kubelet says of each pod of the node.
type Source struct {
	socket   string
	expected bool // somebody says that there is one, so its absence is worth a word
	log      *slog.Logger
	pause    time.Duration // the first one
	limit    time.Duration // of a question

	mu    sync.Mutex
	table table
	conn  *grpc.ClientConn // of the watch; nil where there is none
	state State
	said  bool // that it is lost
}

// New returns a source that knows nothing yet. expected tells whether somebody says that there is such a socket.
func New(socket string, expected bool, log *slog.Logger) *Source {
	return &Source{socket: socket, expected: expected, log: log, pause: firstPause, limit: askLimit, state: State{Socket: socket, Condition: Absent, Since: time.Now()}}
}

// State tells how it is.
func (s *Source) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	state.Pods, state.Left, state.LeftWhy = len(s.table.pods), s.table.unread(), s.table.why
	return state
}

// Known returns what is known of a pod already: of one that the kubelet tells of and that is Unreadable, that.
func (s *Source) Known(uid string) (rules.Pod, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.table.pods[uid]
	return e.pod, ok
}

// Pod returns what is known of a pod that is about to run, or of which a container is; container is its name. Where that is not
// known, or not whole, the pod is asked for, once and not for long: the runtime waits with it.
func (s *Source) Pod(ctx context.Context, uid, container string) (rules.Pod, bool) {
	s.mu.Lock()
	conn := s.conn
	e, known := s.table.pods[uid]
	s.mu.Unlock()
	if known && e.tells(container) || conn == nil {
		return s.told(e.pod, container, &s.state.Known)
	}
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	answer := make(chan rules.Pod, 1)
	go func() { answer <- s.ask(ctx, conn, uid, e) }() // which goes on with what it has got when the time is up
	select {
	case pod := <-answer:
		if pod.UID == uid {
			return s.told(pod, container, &s.state.Asked)
		}
	case <-ctx.Done():
	}
	return s.told(e.pod, container, &s.state.Known)
}

// told counts a pod that starts by how much is known of it, as n where it can be read.
func (s *Source) told(pod rules.Pod, container string, n *int) (rules.Pod, bool) {
	if pod.UID == "" || pod.Unreadable != "" {
		n = &s.state.Unanswered
	}
	if container == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		*n++
	}
	return pod, pod.UID != ""
}

// ask asks for a pod of which known is known, and returns none where the answer is none. It remembers the answer unless the watch
// has told something of the pod meanwhile, or the pod has lost its room already.
func (s *Source) ask(ctx context.Context, conn *grpc.ClientConn, uid string, known entry) rules.Pod {
	message, err := get(ctx, conn, uid)
	if err != nil {
		return rules.Pod{}
	}
	pod, err := read(message)
	if err != nil || pod.UID != uid {
		return rules.Pod{}
	}
	e := entryOf(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.table.pods[uid]; now.number == known.number && !now.small {
		s.table.put(e)
	}
	return pod
}

// read returns what a message says of a pod: of one that cannot be read its name, and why.
func read(message []byte) (rules.Pod, error) {
	pod, err := manifest.ReadProtobuf(message)
	if err != nil && pod.UID != "" {
		pod.Unreadable = err.Error()
		return pod, nil
	}
	return pod, err
}

// Run watches until ctx ends, again and again.
func (s *Source) Run(ctx context.Context) {
	pause := s.pause
	for ctx.Err() == nil {
		began := time.Now()
		if err := s.watch(ctx); ctx.Err() == nil {
			s.ended(err)
		}
		if time.Since(began) > longestPause {
			pause = s.pause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause/4+1)):
		}
		pause = min(2*pause, longestPause)
	}
}

// watch takes in what the kubelet says until it says no more.
func (s *Source) watch(ctx context.Context) error {
	if _, err := os.Stat(s.socket); err != nil {
		return err // grpc would try for a while
	}
	conn, err := dial(s.socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, err := watch(ctx, conn)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		e, err := next()
		if err != nil {
			return err
		}
		s.take(conn, e, first)
	}
}

// take takes in one event of the watch.
func (s *Source) take(conn *grpc.ClientConn, e event, first bool) {
	pod, err := read(e.pod) // before the lock, which every container of the node waits for
	its, ended := entryOf(pod), over(e.pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if first {
		s.conn = conn
		s.table.begin()
		s.become(Reading, nil)
	}
	switch e.kind {
	case added, modified:
		switch {
		case err != nil:
			s.table.leave(err)
		case ended: // such pods stay until somebody deletes them, and run nothing any more
			s.table.drop(pod.UID)
		default:
			s.table.put(its)
		}
	case deleted:
		s.table.drop(pod.UID)
	case synced:
		s.table.swept()
		s.become(Complete, nil)
		if s.said || s.expected {
			s.log.Info("the kubelet tells its pods: their containers are known before the runtime creates them", "event", EventKnown, "pods", len(s.table.pods))
		}
		s.said = false
		s.expected = true // from now on its absence is worth a word
	}
}

// ended says why a watch ended, once until there is another one that is complete. What is known stays.
func (s *Source) ended(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.conn == nil // the one before ended, too: not only for a moment
	s.conn = nil
	if errors.Is(err, os.ErrNotExist) {
		s.become(Absent, nil)
	} else {
		s.become(Failing, err)
	}
	if again && s.expected && !s.said {
		s.said = true
		s.log.Warn("the kubelet does not tell its pods: of those that start, what the runtime tells is known", "event", EventLost, "socket", s.socket, "error", err)
	}
}

func (s *Source) become(c Condition, why error) {
	if s.state.Condition != c {
		s.state.Since = time.Now()
	}
	s.state.Condition, s.state.Why = c, ""
	if why != nil {
		s.state.Why = why.Error()
	}
}

// The events of the log.
const (
	EventKnown = "kubelet_known" // the kubelet tells its pods
	EventLost  = "kubelet_lost"  // it does not, or not any more
)
