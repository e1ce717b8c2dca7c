// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// bound is the most that one look at a namespace reads. A pod with NET_ADMIN can fill the kernel's memory with rules, and a
// look takes several times what it reads: some 150 MB for six pods at once.
type bound struct {
	bytes    int // of all answers of the kernel
	elements int // bytes of sets: for each part that is read, the kernel walks the set from its beginning
	objects  int // of one kind: tables, chains, rules, sets, packets of elements
	sets     int // of the native table, each of which is asked about
}

// standard is far above what a plan has, whose rules have some 300 bytes each, and elements of sets up to 28.
var standard = bound{bytes: 4 << 20, elements: 512 << 10, objects: 16 << 10, sets: 512}

// ErrTooMuch is within the error about a namespace that holds more than is read.
var ErrTooMuch = errors.New("somebody has put more packet-filter rules into the pod's network namespace than meshnetd reads, so that " +
	"nobody can say what becomes of its traffic: take them out, or NET_ADMIN away from the pod")

// check fails where a look found more of something than it may read.
func check(what string, have, most int) error {
	if have > most {
		return fmt.Errorf("%w (more than %d %s)", ErrTooMuch, most, what)
	}
	return nil
}

// Readable returns an error where the namespace holds more than may be read. It is for programs, which have no bound of
// their own.
func Readable(ctx context.Context, ns *netns.Namespace) error {
	return ns.Within(ctx, "read the rules", func() error { return look(func(state, []byte) error { return nil }) })
}
