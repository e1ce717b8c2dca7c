// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// Loose is a word for why nothing keeps a pod's containers back while meshnetd is away; "" where something does, or where it
// is not known.
type Loose string

// The causes.
const (
	ValidatorOff Loose = "validator_off"
	NotRequired  Loose = "not_required"
)

// Looses are all of them.
var Looses = [...]Loose{ValidatorOff, NotRequired}

// Why says it in a sentence.
func (l Loose) Why() string {
	switch l {
	case ValidatorOff:
		return "not held back while meshnetd is away: the validator is off"
	case NotRequired:
		return "not held back while meshnetd is away: the pod does not require it"
	}
	return ""
}

// ValidatorOff reports whether the runtime's last question about a pod of the mesh showed that its own validator is off.
func (e *Enforcer) ValidatorOff() bool {
	on := e.validator.Load()
	return on != nil && !*on
}

// Loose returns why nothing keeps the sandbox's containers back while meshnetd is away, as far as they have shown it.
func (e *Enforcer) Loose(sb Sandbox) Loose {
	switch {
	case !sb.reviewed || !sb.State.Enrolled():
	case e.ValidatorOff():
		return ValidatorOff
	case !sb.required && !e.policy.Load().Required:
		return NotRequired
	}
	return ""
}

// mostChanges are remembered of a sandbox.
const mostChanges = 32

// review takes in what the runtime tells beside a container of the mesh, and says what of it is news.
func (e *Enforcer) review(o outcome.Look, r *rules.Review) outcome.Look {
	if !o.Result.Admits() || r == nil {
		return o
	}
	e.validator.Store(&r.Validator)
	var before, now Sandbox
	e.sandboxes.updateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
		before = *sb
		sb.required = r.Required && (sb.required || !sb.reviewed) // by each of its containers
		sb.reviewed = true
		sb.Changes = added(sb.Changes, r.Changes)
		now = *sb
	})
	if loose := e.Loose(now); !before.reviewed || loose == NotRequired && before.required {
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

// added adds news to what is known, each once.
func added(known, news []rules.Adjustment) []rules.Adjustment {
	all := slices.Clone(known)
	for _, c := range news {
		if !slices.Contains(all, c) && len(all) < mostChanges {
			all = append(all, c)
		}
	}
	return all
}

// notice says something beside what became of the pod; "" is nothing. It counts no time again.
func (e *Enforcer) notice(o outcome.Outcome, event, text string) {
	if text != "" {
		e.record(o.Noting(event, text))
	}
}
