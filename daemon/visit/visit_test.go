// SPDX-License-Identifier: Apache-2.0

//go:build linux

package visit

import (
	"errors"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// Of what nobody waits for any more nothing is recorded: it would never be said.
func TestNothingIsRecordedForNobody(t *testing.T) {
	o := outcome.Begin(lifecycle.Audited, rules.Pod{SandboxID: "one"})
	o.Watched()
	o.Watch.LastWord() // of whoever waited
	p := pass{o: &o}   // whose memory is nowhere
	p.Commit(lifecycle.Facts{}, lifecycle.Step{Then: lifecycle.StateProtected}, lifecycle.Row{})
	if !errors.Is(p.err, fair.ErrGivenUp) {
		t.Errorf("got %v", p.err)
	}
}
