// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReadNobody(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	_, err := Read(t.Context(), socket)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "meshnetd is not running") || !strings.Contains(err.Error(), socket) {
		t.Errorf("got %v", err)
	}
}

func TestReadNowhere(t *testing.T) {
	if _, err := Read(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "status_socket is empty") {
		t.Errorf("got %v", err)
	}
}

func TestReadIsBounded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "silent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Read(ctx, socket); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}

func TestReadNoStatus(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"version\": 3}": "the answer is no status",
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n":                 "the answer is no status",
		"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nnothing":   `the answer is 404 Not Found: "nothing"`,
		"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing":   `the answer is 404 Not Found: "nothing"`,
	} {
		socket := filepath.Join(t.TempDir(), "other.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(readLimit))
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, answer)
			if strings.Contains(answer, "close") {
				return
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("the client keeps its connection: %v", err)
			}
		}()
		if _, err := Read(t.Context(), socket); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		_ = listener.Close()
		<-done
	}
}
