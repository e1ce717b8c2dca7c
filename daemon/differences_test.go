// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
)

// However much somebody puts into a namespace, little of it is said of it and kept.
func TestDifferencesWithoutEnd(t *testing.T) {
	const mostNamed, mostSaid = 512, 1 << 10
	for _, rule := range []string{"-j ACCEPT", strings.Repeat("é", 1<<13)} {
		litter := make([]rules.Difference, 20_000)
		for i := range litter {
			litter[i] = rules.Difference{Table: "nat", Chain: fmt.Sprint("CHAIN", i), Kind: "unexpected", Rule: rule}
		}
		e, r := newEnforcer(t, firewall{verify: func() ([]rules.Difference, error) { return litter, nil }})
		o := e.Enforce(t.Context(), lifecycle.SandboxStarted, meshed(newNetNS(t)))
		kept := 0
		for _, d := range o.Differences {
			kept += len(d)
		}
		if o.Result != lifecycle.Failed || len(o.Differences) != mostNamed+1 || kept > mostNamed*(mostSaid+100) || !strings.Contains(o.Differences[mostNamed], "19488 more") {
			t.Errorf("%s, %d differences of %d bytes", o.Result, len(o.Differences), kept)
		}
		if text := o.Error().Error(); len(text) > 2*mostSaid || !strings.Contains(text, "CHAIN0") ||
			!strings.Contains(text, "these are 3 of 20000 differences: while the sandbox is there, `meshnetd verify default/web`") {
			t.Errorf("%d bytes are said: %.300s", len(text), text)
		}
		if len(r.outcomes) == 0 {
			t.Error("nothing was recorded")
		}
	}
}

// What is known of the same rules in another pod is said with this pod's name: the other one is nobody's business here.
func TestDifferencesNameTheirOwnPod(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	for _, id := range []string{"first", "second"} {
		pod := sandbox(t, id)
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		m.put(t, pod.NetNS, rules.Plan{})
		if o := e.Validate(ctx, pod, app); o.Error() == nil || !strings.Contains(o.Error().Error(), "`meshnetd verify default/"+id+"`") {
			t.Errorf("%s: %v", id, o.Error())
		}
	}
}
