// SPDX-License-Identifier: Apache-2.0

//go:build linux

package memory

import (
	"slices"

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

// mostChanges are remembered of a sandbox.
const mostChanges = 32

// Review remembers what the runtime tells beside a container of the sandbox, and returns what was known before and is now.
func (s *Sandboxes) Review(id string, r *rules.Review) (before, now Sandbox) {
	s.validator.Store(&r.Validator)
	s.UpdateKnown(id, func(sb *Sandbox) {
		before = *sb
		sb.Required = r.Required && (sb.Required || !sb.Reviewed) // by each of its containers
		sb.Reviewed = true
		sb.Changes = added(sb.Changes, r.Changes)
		now = *sb
	})
	return before, now
}

// ValidatorOff reports whether the runtime's last question about a pod of the mesh showed that its own validator is off.
func (s *Sandboxes) ValidatorOff() bool {
	on := s.validator.Load()
	return on != nil && !*on
}

// Loose returns why nothing keeps the sandbox's containers back while meshnetd is away, as far as they have shown it. Those of
// every pod are kept back where the runtime requires meshnetd.
func (s *Sandboxes) Loose(sb Sandbox, required bool) Loose {
	switch {
	case !sb.Reviewed || !sb.State.Enrolled():
	case s.ValidatorOff():
		return ValidatorOff
	case !sb.Required && !required:
		return NotRequired
	}
	return ""
}

// added adds news to what is known, each once.
func added(known, news []rules.Adjustment) []rules.Adjustment {
	all := rules.Unique(slices.Concat(known, news))
	return all[:min(len(all), mostChanges)]
}
