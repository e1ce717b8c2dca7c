// SPDX-License-Identifier: Apache-2.0

//go:build linux

package journal

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

const inside = "MESHNETD_TEST_JOURNAL"

// The place of the journal's socket is fixed: a mount namespace gives the test a journal of its own.
func TestRealSocket(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Parallel()
		again(t, "^TestRealSocket$", nil)
		return
	}
	socket := journalSocket(t)
	q := NewQueue(t.Output())
	l := slog.New(NewHandler(q, slog.LevelInfo))
	long := strings.Repeat("a goroutine\n", 100_000) // more than a datagram holds
	l.Warn("small", "event", "nri_lost", "pod", "a/b")
	l.Error("large", "event", "nri_panic", "stack", long)
	go q.Run()
	small, large := receive(t, socket), receive(t, socket)
	if small["MESSAGE"] != "nri_lost a/b: small" || small["PRIORITY"] != "4" || small["SYSLOG_IDENTIFIER"] != "meshnetd" ||
		small["MESSAGE_ID"] != messageIDs["nri_lost"] || small["MESHNETD_NAMESPACE"] != "a" {
		t.Errorf("got %v", small)
	}
	if large["MESSAGE"] != "nri_panic: large" || large["MESHNETD_STACK"] != long {
		t.Errorf("message %q, a stack of %d bytes", large["MESSAGE"], len(large["MESHNETD_STACK"]))
	}
	if err := q.Close(10 * time.Second); err != nil {
		t.Error(err)
	}
}

// JOURNAL_STREAM counts only if standard error is what it names.
func TestConnected(t *testing.T) {
	if want := os.Getenv(inside); want != "" {
		if got := fmt.Sprint(Connected()); got != want {
			t.Errorf("connected: %s, want %s", got, want)
		}
		return
	}
	t.Parallel()
	for _, tt := range []struct {
		stream func(dev, ino uint64) string
		want   string
	}{
		{func(dev, ino uint64) string { return fmt.Sprintf("%d:%d", dev, ino) }, "true"},
		{func(dev, ino uint64) string { return fmt.Sprintf("%d:%d", dev, ino+1) }, "false"},
		{func(dev, ino uint64) string { return fmt.Sprintf("%d:%d", dev+1, ino) }, "false"},
		{func(uint64, uint64) string { return "" }, "false"},
		{func(uint64, uint64) string { return "nonsense" }, "false"},
	} {
		stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(stderr.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestConnected$")
		cmd.Env = append(os.Environ(), inside+"="+tt.want, "JOURNAL_STREAM="+tt.stream(st.Dev, st.Ino))
		cmd.Stderr = stderr
		if out, err := cmd.Output(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// again runs the test in a mount namespace of its own.
func again(t *testing.T, name string, env []string) {
	t.Helper()
	nstest.Require(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", name)
	cmd.Env = append(append(os.Environ(), inside+"=1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func journalSocket(t *testing.T) *net.UnixConn {
	t.Helper()
	const path = "/run/systemd/journal/socket"
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// receive reads one record in the journal's own form, from the datagram or from the file that comes with it.
func receive(t *testing.T, conn *net.UnixConn) map[string]string {
	t.Helper()
	data, rights := make([]byte, 1<<20), make([]byte, 256)
	n, m, _, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		t.Fatal(err)
	}
	data = data[:n]
	if m > 0 {
		messages, err := syscall.ParseSocketControlMessage(rights[:m])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fds[0]), "record")
		defer file.Close()
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(file); err != nil {
			t.Fatal(err)
		}
	}
	fields := map[string]string{}
	for text := string(data); text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		if name, value, ok := strings.Cut(line, "="); ok {
			fields[name], text = value, rest
			continue
		}
		size := binary.LittleEndian.Uint64([]byte(rest[:8]))
		fields[line], text = rest[8:8+size], rest[8+size+1:]
	}
	return fields
}
