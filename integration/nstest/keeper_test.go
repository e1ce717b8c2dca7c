// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

const leaving = "MESHNETD_LEAVING"

// Whatever tests leave ends with them, by itself or not: also what is nobody's child any more, and when they are killed
// from without.
func TestNothingOutlivesTests(t *testing.T) {
	if what := os.Getenv(leaving); what != "" {
		leave(t, what)
		return
	}
	Require(t, "setsid")
	for _, what := range []string{"the tests end", "the tests hang"} {
		t.Run(what, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestNothingOutlivesTests$")
			cmd.Env = append(os.Environ(), stage+"=", leaving+"="+what)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			var pid int
			if _, scanned := fmt.Sscanf(line, "left %d", &pid); err != nil || scanned != nil {
				t.Fatalf("it said %q: %v", line, errors.Join(err, scanned))
			}
			left, err := unix.PidfdOpen(pid, 0)
			if err != nil && !errors.Is(err, unix.ESRCH) { // it is gone already
				t.Fatal(err)
			}
			defer func() { _ = unix.Close(left) }()
			if what == "the tests hang" {
				if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); (err != nil) != (what == "the tests hang") {
				t.Errorf("it ended with %v", err)
			}
			if left < 0 {
				return
			}
			ended := []unix.PollFd{{Fd: int32(left), Events: unix.POLLIN}}
			const limit = 60_000 // milliseconds
			n, err := unix.Poll(ended, limit)
			for errors.Is(err, unix.EINTR) {
				n, err = unix.Poll(ended, limit)
			}
			if n != 1 || err != nil {
				_ = unix.Kill(pid, unix.SIGKILL)
				t.Errorf("process %d is still there: %d, %v", pid, n, err)
			}
		})
	}
}

// leave starts a process that is not this one's child, and says which.
func leave(t *testing.T, what string) {
	t.Helper()
	pid, err := exec.Command("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("left %s", pid)
	if what == "the tests hang" {
		select {}
	}
}
