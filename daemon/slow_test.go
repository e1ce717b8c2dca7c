// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
)

// On a node that is so slow that each pod needs a third of its time, one that once needed all of it keeps nobody out, itself
// included: it wishes nothing that takes long.
func TestALatePodOfASlowNodeKeepsNobodyOut(t *testing.T) {
	pods := crowd(t, "shop", 4)
	faked(t, func(t *testing.T) {
		firewall := &sticky{inMemory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, _ := newEnforcer(t, firewall)
		firewall.slowDown(t, pods, hookTime/9) // for each of its looks
		firewall.slowDown(t, pods[:1], 2*hookTime)
		if o, _ := start(t, e, pods[0]); o.Result != lifecycle.Failed {
			t.Fatal(o.Result)
		}
		firewall.slowDown(t, pods[:1], hookTime/9)
		time.Sleep(2 * hookTime) // the kubelet tries again when the late work is over
		for i, pod := range pods {
			pod.SandboxID = fmt.Sprint("again", i)
			if o, _ := start(t, e, pod); o.Result != lifecycle.Protected {
				t.Errorf("pod %d: %s, %v", i, o.Result, o.Err)
			}
		}
	})
}
