// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var hello = Page{"/hello", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })}

// get asks until somebody listens.
func get(t *testing.T, network, address, path string) (code int, body string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	for limit := time.Now().Add(20 * time.Second); ; {
		resp, err := (&http.Client{Transport: transport}).Get("http://meshnetd" + path)
		if err != nil && time.Now().Before(limit) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
}

// serving runs serve until the test ends, and then wants no error of it.
func serving(t *testing.T, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPagesBesideTheStatus(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	serving(t, func(ctx context.Context) error {
		return Serve(ctx, socket, func() Status { return Status{Version: "v"} }, hello)
	})
	if code, body := get(t, "unix", socket, "/hello"); code != 200 || body != "hello" {
		t.Errorf("%d %s", code, body)
	}
	if s, err := Read(t.Context(), socket); err != nil || s.Version != "v" {
		t.Errorf("%v, %v", s, err)
	}
}

// Where pages are served for others, the status is not: it can change the node.
func TestPagesAlone(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "dir", "s")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp := free.Addr().String()
	err = ServePages(t.Context(), tcp, hello)
	if err == nil || !strings.Contains(err.Error(), "serve metrics and health on "+tcp) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("on a port that is taken: %v", err)
	}
	_ = free.Close()
	for address, dial := range map[string][2]string{"unix:" + socket: {"unix", socket}, tcp: {"tcp", tcp}} {
		serving(t, func(ctx context.Context) error { return ServePages(ctx, address, hello) })
		for path, want := range map[string]int{"/hello": 200, "/": 404, "/v1/status": 404, "/v1/reload": 404} {
			if code, _ := get(t, dial[0], dial[1], path); code != want {
				t.Errorf("%s%s: %d, want %d", address, path, code, want)
			}
		}
	}
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket has %v, %v", st.Mode(), err)
	}
	if err := ServePages(t.Context(), "unix:"+socket, hello); err == nil || !strings.Contains(err.Error(), "by metrics.address") {
		t.Errorf("on a socket that is taken: %v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		check func() error
		code  int
		body  string
	}{
		"well":  {func() error { return nil }, 200, "all is well\n"},
		"ill":   {func() error { return errors.New("no session") }, 503, "no session\n"},
		"a bug": {func() error { panic("oh") }, 503, "a bug: panic: oh\n"},
	} {
		page := Check("all is well", tt.check)
		for range 2 { // one check must not keep the next one out
			w := httptest.NewRecorder()
			page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			if w.Code != tt.code || w.Body.String() != tt.body {
				t.Errorf("%s: %d %q", name, w.Code, w.Body)
			}
		}
	}
}

// A check that hangs is answered for, and no further one hangs behind it.
func TestCheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var checks atomic.Int64
		page := Check("well", func() error { checks.Add(1); <-release; return nil })
		ask := func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			return w
		}
		for range 3 {
			began := time.Now()
			if w := ask(); w.Code != 503 || !strings.Contains(w.Body.String(), "something holds it up") || time.Since(began) != checkLimit {
				t.Errorf("%d %q after %s", w.Code, w.Body, time.Since(began))
			}
		}
		if n := checks.Load(); n != 1 {
			t.Errorf("%d checks hang", n)
		}
		close(release)
		synctest.Wait()
		if w := ask(); w.Code != 200 {
			t.Errorf("once it is free: %d %q", w.Code, w.Body)
		}
	})
}
