// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// On a node that is so slow that each pod needs a third of its time, one that once needed all of it does not keep those of
// its namespace out for longer than a minute, although new ones come all the while.
func TestOnePodKeepsItsNamespaceOutForAMinute(t *testing.T) {
	pods := crowd(t, "shop", 4)
	faked(t, func(t *testing.T) {
		firewall := &sticky{memory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, _ := newEnforcer(t, firewall)
		firewall.slowDown(t, pods, hookTime/9) // for each of its looks
		firewall.slowDown(t, pods[:1], 2*hookTime)
		began := time.Now()
		if o, _ := start(t, e, pods[0]); o.Result != Failed {
			t.Fatal(o.Result)
		}
		firewall.slowDown(t, pods[:1], hookTime/9)
		for try := 0; ; try++ {
			pod := pods[try%len(pods)]
			pod.UID, pod.SandboxID = fmt.Sprint(try), fmt.Sprint(try)
			o, _ := start(t, e, pod)
			if o.Result == Protected {
				break
			}
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("after two minutes: %v", o.Err)
			}
			time.Sleep(10 * time.Second)
		}
	})
}
