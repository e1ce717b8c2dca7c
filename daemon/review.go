// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// review takes in what the runtime tells beside a container of the mesh, and says what of it is news.
func (e *Enforcer) review(o outcome.Look, r *rules.Review) outcome.Look {
	if !o.Result.Admits() || r == nil {
		return o
	}
	before, now := e.sandboxes.Review(o.Pod.SandboxID, r)
	if loose := e.sandboxes.Loose(now, e.policy.Load().Required); !before.Reviewed || loose == memory.NotRequired && before.Required {
		e.notice(o.Outcome, outcome.EventLoose, loose.Why())
	}
	var around []string
	hooks := false
	for _, c := range r.Changes {
		if c.Around() {
			around = append(around, c.String())
			hooks = hooks || c.Field == rules.ChangedHooks
		}
	}
	switch {
	case len(around) == 0:
	case hooks && e.policy.Load().Hooks == config.HooksRefuse:
		return o.Rejecting(rules.ReasonNeighbour, fmt.Errorf("%s, and neighbours.hooks refuses hooks of other plugins: they run when meshnetd has been asked", judge.Short(strings.Join(around, "; "))))
	default:
		e.notice(o.Outcome, outcome.EventNeighbour, "another plugin of the node changed of a container what can lead around the pod's rules: "+judge.Short(strings.Join(around, "; ")))
	}
	return o
}

// notice says something beside what became of the pod; "" is nothing. It counts no time again.
func (e *Enforcer) notice(o outcome.Outcome, event, text string) {
	if text != "" {
		e.visitor.Record(o.Noting(event, text))
	}
}
