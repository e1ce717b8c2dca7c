// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	path      = "/v1/status"
	sandboxes = "/v1/sandboxes/"

	lookLimit = 20 * time.Second // for the daemon to look at a sandbox

	requestLimit  = 2 * time.Second // for a client to send its request
	answerLimit   = 5 * time.Second // for a client to read the answer, from when it has sent its request
	takeoverLimit = 2 * time.Second // for a daemon that has the socket to prove that it is meshnetd
)

// Serve answers on a unix socket with what read returns, until ctx ends; it returns nil then: GET /v1/status, POST
// /v1/reload, and for each sandbox with a Live GET /v1/sandboxes/ID/verify, POST /v1/sandboxes/ID/repair, GET
// /v1/sandboxes/ID/plan and GET /v1/sandboxes/ID/explain. read may be called many times at once. The directory is made
// for root alone where it is missing, and the socket is root's alone.
//
// A socket on which nobody listens is replaced, and so is that of another meshnetd: in a rolling update the
// newer daemon is the one to ask. It is done by rename, so that there is no moment without a socket. Anything
// else at that path is an error. The socket stays behind at the end: it may be a newer daemon's by then, and
// to look and to remove are two steps.
//
// The pages are served beside all that.
func Serve(ctx context.Context, socket string, read func() Status, pages ...Page) error {
	listener, err := listen(ctx, socket, "status_socket")
	if err == nil {
		err = answerOn(ctx, listener, handler(read, pages))
	}
	if err != nil {
		return fmt.Errorf("serve the status on %s: %w", socket, err)
	}
	return nil
}

// answerOn answers until ctx ends, and returns nil then. No client holds up another one, or the daemon, for long.
func answerOn(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           attending(handler),
		ConnContext:       withClient,
		ReadHeaderTimeout: requestLimit,
		ReadTimeout:       requestLimit,
		WriteTimeout:      answerLimit,
		MaxHeaderBytes:    4096,
		ErrorLog:          log.New(io.Discard, "", 0), // a client's errors are not the daemon's
	}
	server.SetKeepAlivesEnabled(false)
	// The daemon's end must not wait for a client in the middle of an answer, who can ask again.
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(newPlaces(listener, ctx.Done()))
	_ = server.Close() // closes connections that the first Close may have missed
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func handler(read func() Status, pages []Page) http.Handler {
	mux := muxOf(pages)
	mux.HandleFunc("GET "+path, answer(func(*http.Request) (any, error) { return complete(read()), nil }))
	of := func(look func(context.Context, Live) any) http.HandlerFunc { return lookAt(read, look) }
	mux.HandleFunc("POST "+reload, answer(func(*http.Request) (any, error) { return reloaded(read()), nil }))
	mux.HandleFunc("GET "+sandboxes+"{id}/verify", of(func(ctx context.Context, l Live) any { return complete(l.Verify(ctx)) }))
	mux.HandleFunc("POST "+sandboxes+"{id}/repair", of(func(ctx context.Context, l Live) any { return complete(l.Repair(ctx)) }))
	mux.HandleFunc("GET "+sandboxes+"{id}/plan", of(func(_ context.Context, l Live) any { return complete(l.Plan()) }))
	mux.HandleFunc("GET "+sandboxes+"{id}/explain", of(func(_ context.Context, l Live) any { return l.Explain().Complete() }))
	return mux
}

// lookAt answers about the sandbox that a path names.
func lookAt(read func() Status, look func(context.Context, Live) any) http.HandlerFunc {
	return answer(func(r *http.Request) (any, error) {
		live := find(read(), r.PathValue("id"))
		if live == nil {
			return nil, errGone
		}
		ctx, cancel := context.WithTimeout(r.Context(), lookLimit)
		defer cancel()
		return look(ctx, live), nil
	})
}

var errGone = errors.New("no such sandbox")

func find(s Status, id string) Live {
	i := slices.IndexFunc(s.Sandboxes, func(sb Sandbox) bool { return sb.ID == id })
	if i < 0 {
		return nil
	}
	return s.Sandboxes[i].Live
}

// answer writes what say returns as JSON.
func answer(say func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// A question must never end the daemon.
		defer func() {
			if p := recover(); p != nil {
				http.Error(w, fmt.Sprintf("the status cannot be told: %v", p), http.StatusInternalServerError)
			}
		}()
		if r.ContentLength != 0 {
			http.Error(w, "a request has no body here", http.StatusBadRequest)
			return
		}
		// A look at a sandbox may take longer than a client has to read the answer.
		conn := http.NewResponseController(w)
		_ = conn.SetWriteDeadline(time.Now().Add(lookLimit + answerLimit))
		said, err := say(r)
		if errors.Is(err, errGone) { // not 404, which an older daemon without this path answers
			http.Error(w, err.Error(), http.StatusGone)
			return
		}
		text, err := json.Marshal(said)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(answerLimit))
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(text, '\n')) // a client that has gone needs no answer
	}
}

// listen listens on a socket that the configuration names under that key.
func listen(ctx context.Context, socket, key string) (net.Listener, error) {
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: name another place by %s", err, key)
	}
	if err := replaceable(ctx, socket, key); err != nil {
		return nil, err
	}
	// Nobody else can reach the new directory, so nobody connects before the mode is right.
	private, err := os.MkdirTemp(dir, ".new")
	if err != nil {
		return nil, fmt.Errorf("%w: name another place by %s", err, key)
	}
	defer os.RemoveAll(private) //nolint:errcheck // it is empty by then, or there is an error already
	fresh := filepath.Join(private, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w (a socket's path has at most 107 bytes): name another place by %s", err, key)
	}
	// At its end the listener removes the name that it made, which is gone by then.
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, socket)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// replaceable returns nil where nothing is lost by putting a socket there.
func replaceable(ctx context.Context, socket, key string) error {
	found, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case found.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("there is something that is no socket: remove it, or name another place by %s", key)
	}
	ctx, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	if _, err := Read(ctx, socket); err != nil && !errors.Is(err, ErrNobody) {
		return fmt.Errorf("somebody listens who does not answer as meshnetd does: %w: name another place by %s", err, key)
	}
	return nil
}
