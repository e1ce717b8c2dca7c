// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
)

// closing is what Close may take.
const closing = 2 * time.Minute

// closeInTime closes the cluster, and ends the tests, before go test's timeout or a signal ends them: the cluster would stay.
func closeInTime(t *testing.T, c *Cluster) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var late <-chan time.Time
	if deadline, ok := t.Deadline(); ok {
		late = time.After(time.Until(deadline.Add(-closing)))
	}
	go func() {
		why := "the tests' time is over, but for what closing the cluster takes"
		select {
		case <-done:
			return
		case <-late:
		case s := <-signals:
			why = s.String()
		}
		err := c.Close()
		debug.SetTraceback("all") // where the tests are
		panic(fmt.Sprintf("%s: %s (closing: %v)", t.Name(), why, err))
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
