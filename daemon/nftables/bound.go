// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// bound is what one look at a namespace reads at most. Whoever has NET_ADMIN in a pod can have the kernel hold as many
// rules as there is memory, and each look holds several times what it reads: of six pods at once, some 150 MB.
type bound struct {
	bytes    int // of all answers of the kernel
	elements int // bytes of what sets hold, for each part of which the kernel goes through the set from its beginning
	objects  int // of one kind: tables, chains, rules, sets, packets of elements
	sets     int // of the native table, each of which is asked about
}

// standard is far above what a plan has, whose rules have some 300 bytes each, and elements of sets up to 28.
var standard = bound{bytes: 4 << 20, elements: 512 << 10, objects: 16 << 10, sets: 512}

// ErrTooMuch is within the error about a namespace that holds more than is read.
var ErrTooMuch = errors.New("somebody has put more packet-filter rules into the pod's network namespace than meshnetd reads, so that " +
	"nobody can say what becomes of its traffic: take them out, or NET_ADMIN away from the pod")

// check fails where a look has come to more of something than it may.
func check(what string, have, most int) error {
	if have > most {
		return fmt.Errorf("%w (more than %d %s)", ErrTooMuch, most, what)
	}
	return nil
}

// Readable returns nil where the namespace holds no more than can be read, for programs that know no bound of their own.
func Readable(ns *netns.Namespace) error {
	err := ns.Do(func() error { return look(func(state, []byte) error { return nil }) })
	if err != nil {
		return fmt.Errorf("read the rules in %s: %w", ns.Path(), err)
	}
	return nil
}
