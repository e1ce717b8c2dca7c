// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
)

// While a plan is replaced by another one, over and over, no connection goes around either: a chain that goes
// keeps its rules for as long as its hook is there, and that is longer than the new one is empty.
func TestNativeReplacesWithoutAGap(t *testing.T) {
	nstest.Require(t, "nft")
	s := newSandbox(t)
	s.own(t, client, server)
	s.RunInput(t, `table inet watch {
		counter missed { }
		chain out { type filter hook postrouting priority 300; tcp dport 80 counter name missed; }
	}`, "nft", "-f", "-")
	var states [2]rules.Plan
	for i := range states {
		var b rules.Builder
		b.Append("nat", "OUTPUT", "", rules.Jump("OWN"))
		b.Append("nat", "OWN", "", rules.Return, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 1000+uint16(i)))
		b.Append("nat", "OWN", "", rules.Redirect{Port: 7}, rules.Protocol(rules.TCP))
		states[i].V4 = b.Ruleset(rules.IPv4)
	}
	s.native(t, states[0])
	var stop atomic.Bool
	sent, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = s.ns.Do(func() error {
				for range 1000 {
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
					if err != nil {
						return err
					}
					_ = unix.Connect(fd, socketAddress(port80.dest))
					_ = unix.Close(fd)
					sent++
				}
				return nil
			})
		}
	}()
	for i := range sample.Count(t, "MESHNETD_REPLACEMENTS", 200) {
		s.native(t, states[(i+1)%2])
	}
	stop.Store(true)
	<-done
	if text := s.Run(t, "nft", "list", "counter", "inet", "watch", "missed"); !strings.Contains(text, "packets 0 ") {
		t.Errorf("of %d connections, some went around:\n%s", sent, text)
	}
	t.Logf("%d connections", sent)
}
