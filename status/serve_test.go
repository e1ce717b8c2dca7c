// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is a server under test, known by its version.
type daemon struct {
	end  context.CancelFunc
	done chan error
}

// serve runs a server until the test ends, and returns when it answers.
func serve(t *testing.T, socket, version string) daemon {
	t.Helper()
	return serveFunc(t, socket, version, func() Status { return Status{Version: version} })
}

func serveFunc(t *testing.T, socket, version string, read func() Status) daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := daemon{end: cancel, done: make(chan error, 1)}
	go func() {
		d.done <- Serve(ctx, socket, read)
		close(d.done)
	}()
	t.Cleanup(func() { d.stop(t) })
	for deadline := time.Now().Add(10 * time.Second); ; {
		s, err := Read(t.Context(), socket)
		if err == nil && s.Version == version {
			return d
		}
		select {
		case err := <-d.done:
			t.Fatalf("%s ended by itself: %v", version, err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v %v", version, s.Version, err)
		}
	}
}

func (d daemon) stop(t *testing.T) {
	t.Helper()
	d.end()
	select {
	case err := <-d.done: // nil, too, when it is closed
		if err != nil {
			t.Errorf("ends with %v", err)
		}
	case <-time.After(3 * time.Second): // less than a client has for an answer
		t.Error("does not end with its context")
	}
}

func socketIn(t *testing.T) string { return filepath.Join(t.TempDir(), "run", "meshnetd.sock") }

func TestServe(t *testing.T) {
	socket := socketIn(t)
	d := serveFunc(t, socket, "v0.3.0", full)
	got, err := Read(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	want := full()
	want.Audit.Took = Milliseconds(12345 * time.Microsecond)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("not what was told (-want +got):\n%s", diff)
	}
	for file, mode := range map[string]fs.FileMode{filepath.Dir(socket): fs.ModeDir | 0o700, socket: fs.ModeSocket | 0o600} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", file, info.Mode(), mode)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(socket)); err != nil || len(files) != 1 {
		t.Errorf("more than the socket is left: %v %v", files, err)
	}
	d.stop(t)
	if _, err := Read(t.Context(), socket); !errors.Is(err, ErrNobody) || !strings.Contains(err.Error(), "meshnetd is not running") {
		t.Errorf("after the end: %v", err)
	}
}

func TestDirectoryKeepsItsMode(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, filepath.Join(dir, "meshnetd.sock"), "v1")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// A rolling update, many times: there is a socket at every moment, and the newer daemon answers on it, also after
// the older one's end.
func TestNewerTakesOver(t *testing.T) {
	socket := socketIn(t)
	older := serve(t, socket, "older")
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := os.Lstat(socket); err != nil {
				failed <- err
				return
			}
		}
	}()
	for i := range 50 {
		version := fmt.Sprint("newer ", i)
		newer := serve(t, socket, version)
		older.stop(t)
		if s, err := Read(t.Context(), socket); err != nil || s.Version != version {
			t.Errorf("after the older one's end: %q %v", s.Version, err)
		}
		older = newer
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("a moment without a socket: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	socket := socketIn(t)
	serve(t, socket, "first").stop(t)
	if info, err := os.Lstat(socket); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Fatalf("no stale socket to test with: %v %v", info, err)
	}
	serve(t, socket, "second")
}

func TestOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	t.Run("file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Serve(t.Context(), path, full)
		if err == nil || !strings.Contains(err.Error(), "no socket: remove it, or name another place by status_socket") {
			t.Errorf("got %v", err)
		}
		if text, err := os.ReadFile(path); string(text) != "precious" {
			t.Errorf("%q %v", text, err)
		}
	})
	t.Run("another program", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		go func() { // speaks, but not as meshnetd does
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("220 ready\r\n"))
				conn.Close()
			}
		}()
		before, err := os.Lstat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), socket, full); err == nil || !strings.Contains(err.Error(), "does not answer as meshnetd does") {
			t.Errorf("got %v", err)
		}
		if after, err := os.Lstat(socket); err != nil || !os.SameFile(before, after) {
			t.Errorf("the other's socket is gone: %v", err)
		}
	})
	t.Run("silent program", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		began := time.Now()
		if err := Serve(t.Context(), socket, full); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took >= readLimit {
			t.Errorf("took %s", took)
		}
	})
	t.Run("path too long", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), strings.Repeat("d", 100), "sock")
		if err := Serve(t.Context(), socket, full); err == nil || !strings.Contains(err.Error(), "at most 107 bytes") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no directory", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), filepath.Join(file, "sock"), full); err == nil || !strings.Contains(err.Error(), "status_socket") {
			t.Errorf("got %v", err)
		}
	})
}

// say sends raw text, and returns everything that comes back until the server ends the connection.
func say(t *testing.T, socket, text string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * answerLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server keeps the connection of a client that said %q", text)
	}
	return string(answer)
}

func TestRequests(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	serve(t, socket, "v1")
	for request, want := range map[string]string{
		"GET /v1/status HTTP/1.1\r\nHost: m\r\n\r\n":                                           "HTTP/1.1 200 OK",
		"GET /v1/status HTTP/1.0\r\n\r\n":                                                      "HTTP/1.0 200 OK",
		"POST /v1/status HTTP/1.1\r\nHost: m\r\n\r\n":                                          "HTTP/1.1 405",
		"GET /v2/status HTTP/1.1\r\nHost: m\r\n\r\n":                                           "HTTP/1.1 404",
		"GET /v1/status HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\n":                      "HTTP/1.1 400",
		"GET /v1/status HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n":             "HTTP/1.1 400",
		"GET /v1/status HTTP/1.1\r\nHost: m\r\nA: " + strings.Repeat("a", 32<<10) + "\r\n\r\n": "HTTP/1.1 431",
		"GET /v1/status HTTP/1.1\r\nHost: m\r\nA: never":                                       "",
		"\x00\x01\x02\r\n\r\n":                                                                 "HTTP/1.1 400",
	} {
		t.Run(request[:min(len(request), 90)], func(t *testing.T) {
			t.Parallel()
			got := say(t, socket, request)
			if !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("got %q, want %q", got, want)
			}
			if strings.HasPrefix(got, "HTTP/1.1") && !strings.Contains(got, "\r\nConnection: close\r\n") {
				t.Errorf("the connection is not given up after %q", got)
			}
		})
	}
}

func TestReadPanics(t *testing.T) {
	socket := socketIn(t)
	var broken atomic.Bool
	serveFunc(t, socket, "v1", func() Status {
		if broken.Load() {
			panic("no table")
		}
		return Status{Version: "v1"}
	})
	broken.Store(true)
	if _, err := Read(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "the status cannot be told: no table") {
		t.Errorf("got %v", err)
	}
}

// As many silent clients as there are places: they lose them, and others are answered.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	serve(t, socket, "v1")
	for range mostClients {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := Read(t.Context(), socket); err != nil {
		t.Error(err)
	}
}

// A client that does not take its answer must not keep the daemon from its end.
func TestEndWithClients(t *testing.T) {
	socket := socketIn(t)
	asked := make(chan struct{}, 3*mostClients)
	big := strings.Repeat("x", 1<<20) // more than a socket's buffers
	d := serveFunc(t, socket, "v1", func() Status {
		asked <- struct{}{}
		return Status{Version: "v1", Backend: big}
	})
	<-asked // by serveFunc
	var clients []net.Conn
	ask := func() {
		t.Helper()
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients = append(clients, conn)
		_, _ = io.WriteString(conn, "GET /v1/status HTTP/1.1\r\nHost: m\r\n\r\n") // who is not heard is replaced below
	}
	for range 2 * mostClients {
		ask()
	}
	for heard := 0; heard < mostClients; { // until all places are taken
		select {
		case <-asked:
			heard++
		case <-time.After(requestLimit): // where this process stands still for that long, requests are given up
			ask()
		}
	}
	d.stop(t)
	for _, conn := range clients {
		if answer, _ := io.ReadAll(conn); len(answer) >= len(big) {
			t.Fatal("a client was answered after the end")
		}
	}
}
