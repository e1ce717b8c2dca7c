// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"net/http"
	"time"
)

const (
	remoteLimit = 4 * time.Second // for a reader to wait for its turn and its answer
	restFactor  = 9               // times as long as an answer took, no other is made
)

// Remote returns the pages for readers who are not root of the node: GET /v1/status and GET /v1/sandboxes/ID/explain. They are
// made from memory, without a look at any pod. Whatever readers do, making them takes a tenth of one CPU, and each is complete
// before it is sent, so that one who does not take it keeps nobody waiting.
func Remote(read func() Status) []Page {
	turns := newTurns()
	return []Page{
		{Path: path, Handler: turns.bound(answer(func(*http.Request) (any, error) { return complete(read()), nil }))},
		{Path: sandboxes + "{id}/explain", Handler: turns.bound(lookAt(read, func(_ context.Context, l Live) any { return l.Recall().Complete() }))},
	}
}

// turns lets one reader after the other have its answer made.
type turns chan struct{}

func newTurns() turns { return make(turns, 1) }

// take waits for a turn, and returns what ends it; nil where ctx ended first.
func (t turns) take(ctx context.Context) (end func()) {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	begun := time.Now()
	return func() { time.AfterFunc(restFactor*time.Since(begun), func() { <-t }) }
}

func (t turns) bound(handler http.Handler) http.Handler {
	return http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if end := t.take(r.Context()); end != nil {
			defer end()
			handler.ServeHTTP(w, r)
		}
	}), remoteLimit, "the daemon does not say in time: others ask, or something holds it up")
}
