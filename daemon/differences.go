// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"strings"
)

// differences reads the kernel and tells every way in which it does not hold the plan, in a bounded number of words.
func (e *Enforcer) differences(ctx context.Context, ns entered, o *Outcome) ([]string, error) {
	if err := o.step(ctx, StageVerify); err != nil {
		return nil, err
	}
	found, err := e.firewall.Verify(ctx, ns.Namespace, o.Plan)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, d := range found[:min(len(found), mostNamed)] {
		diffs = append(diffs, short(d.String()))
	}
	if more := len(found) - mostNamed; more > 0 {
		diffs = append(diffs, fmt.Sprintf("and %d more", more))
	}
	more, err := ns.routes.Verify(o.Plan)
	return append(diffs, more...), err
}

// What is kept of a namespace's differences, and what is said of them in a sentence: whoever writes into a pod's namespace
// chooses how many there are, and how long.
const (
	mostNamed = 512
	mostSaid  = 1 << 10
)

func short(text string) string { return strings.ToValidUTF8(text[:min(len(text), mostSaid)], "") }

// some puts the first differences into a sentence.
func some(diffs []string) string {
	text := ""
	for i, d := range diffs {
		if len(text)+len(d) > mostSaid && i > 0 {
			return fmt.Sprintf("%s; and %d more", text, len(diffs)-i)
		}
		if i > 0 {
			text += "; "
		}
		text += d
	}
	return text
}
