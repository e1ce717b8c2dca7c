// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Page is something that is served besides the status, to GET.
type Page struct {
	Path    string // such as "/metrics"
	Handler http.Handler
}

// ServePages answers with the pages alone until ctx ends, and returns nil then. The address is an IP address with a
// port, or "unix:" and the path of a socket, which is treated as Serve treats its own; as long as another meshnetd
// answers there, it is an error.
func ServePages(ctx context.Context, address string, pages ...Page) error {
	var listener net.Listener
	var err error
	if socket, unix := strings.CutPrefix(address, "unix:"); unix {
		listener, err = listen(ctx, socket, "metrics.address")
	} else {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
	}
	if err == nil {
		err = answerOn(ctx, listener, muxOf(pages))
	}
	if err != nil {
		return fmt.Errorf("serve metrics and health on %s: %w", address, err)
	}
	return nil
}

func muxOf(pages []Page) *http.ServeMux {
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.Handle("GET "+p.Path, p.Handler)
	}
	return mux
}

// checkLimit is how long a check may take: it never returns where a lock is held forever.
const checkLimit = time.Second

// Check is a page for a health check: 200 and the text ok where check returns nil, else 503 and its error. One check runs at
// a time, so that no more pile up behind one that never returns.
func Check(ok string, check func() error) http.Handler {
	running := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkLimit)
		defer cancel()
		told := make(chan error, 1)
		select {
		case running <- struct{}{}:
			go func() {
				defer func() { <-running }()
				told <- guarded(check)
			}()
		case <-ctx.Done():
		}
		var err error
		select {
		case err = <-told:
		case <-ctx.Done():
			err = fmt.Errorf("the daemon does not say within %s: something holds it up", checkLimit)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, ok)
	})
}

// guarded turns a panic into an error: a question must never end the daemon.
func guarded(check func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a bug: panic: %v", p)
		}
	}()
	return check()
}
