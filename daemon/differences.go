// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"strings"
)

// differences reads the kernel and tells every way in which it does not hold the plan, in a bounded number of words.
func (p *pass) differences() ([]string, error) {
	if err := p.o.step(p.ctx, StageVerify); err != nil {
		return nil, err
	}
	found, err := p.firewall.Verify(p.ctx, p.ns, p.o.Plan)
	if err != nil {
		return nil, err
	}
	more, err := p.routes.Verify(p.o.Plan)
	p.o.found = len(found) + len(more)
	var diffs []string
	for _, d := range found[:min(len(found), mostNamed)] {
		diffs = append(diffs, short(d.String()))
	}
	if rest := len(found) - mostNamed; rest > 0 {
		diffs = append(diffs, fmt.Sprintf("and %d more", rest))
	}
	return append(diffs, more...), err
}

// What is kept of a namespace's differences, and how much is said of some: whoever writes into a pod's namespace
// chooses how many there are, and how long.
const (
	mostNamed = 512
	mostSaid  = 1 << 10
)

func short(text string) string { return strings.ToValidUTF8(text[:min(len(text), mostSaid)], "") }

// mostTold is how many differences are told where an application developer reads of them.
const mostTold = 3

// some says how many differences there are, the first of them, and where the others are to be read.
func (o Outcome) some() string {
	said := o.Differences[:min(len(o.Differences), mostTold)]
	if len(said) == len(o.Differences) {
		return short(strings.Join(said, "; "))
	}
	return fmt.Sprintf("%s; these are %d of %d differences: while the sandbox is there, `meshnetd verify %s/%s` on its node lists all", short(strings.Join(said, "; ")),
		len(said), o.found, o.Pod.Namespace, o.Pod.Name)
}
