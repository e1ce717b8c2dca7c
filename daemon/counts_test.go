// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// The auditor reads what the lockdown of a pod has counted, says of each class that it has begun, and leaves other pods alone.
func TestAuditorCounts(t *testing.T) {
	for _, locked := range []bool{true, false} {
		m := newMemory()
		e, r := newEnforcer(t, m)
		policy := *e.policy.Load()
		if locked {
			policy.Node.Lockdowns = []rules.Lockdown{{Place: "a.toml:1", UDP: rules.UDPNone, ICMP: true}}
			e.SetPolicy(policy)
		}
		pod := meshed(newNetNS(t))
		pod.SandboxID = "a"
		if o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			t.Fatal(o.Result, o.Err)
		}
		var said []string
		for _, counts := range []map[string]uint64{{"MESHNETD_COUNT_0_UDP": 0}, {"MESHNETD_COUNT_0_UDP": 3, "MESHNETD_COUNT_0_INVALID": 1}, {"MESHNETD_COUNT_0_UDP": 5, "MESHNETD_COUNT_0_ICMP": 1}} {
			m.counts, m.seen = counts, []rules.Seen{{Class: rules.ClassUDP, Protocol: rules.UDP, Peer: netip.MustParseAddr("10.0.0.5"), Port: 8125}}
			round{e}.Look(t.Context(), "a", &auditor.Audit{})
		}
		for _, o := range r.outcomes {
			if o.Event() == outcome.EventLockdown {
				said = append(said, o.Message())
			}
		}
		var want []string
		wantTotals, wantCounted := 0, 0
		if locked {
			want = []string{"the first packets of the pod that a lockdown is for: counted udp 3 (udp to 10.0.0.5:8125)", "the first packets of the pod that a lockdown is for: counted icmp 1"}
			wantTotals, wantCounted = 3, 3
		}
		sb, _ := e.View().Sandbox("a")
		if diff := cmp.Diff(want, said); diff != "" || len(e.View().Totals()) != wantTotals || len(sb.Counted) != wantCounted {
			t.Errorf("locked %v (-want +got):\n%s\n%v, %v", locked, diff, e.View().Totals(), sb.Counted)
		}
		var lacking []string
		lacks, _ := e.View().Lacks()
		for _, l := range lacks {
			lacking = append(lacking, fmt.Sprintf("%s: %s %s of %s", l.Lockdown, l.Key, l.Value, l.Pods))
		}
		if text := strings.Join(lacking, "; "); locked != (text == "[[lockdown]] of a.toml:1: allow 10.0.0.5/32:8125/udp of [web]") {
			t.Errorf("locked %v lacks %s", locked, text)
		}
		if locked && e.View().Totals()[lockdown.Total{Namespace: "default", Class: rules.ClassUDP}] != 5 {
			t.Errorf("%v", e.View().Totals())
		}
	}
}
