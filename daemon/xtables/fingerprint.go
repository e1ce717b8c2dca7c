// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// Fingerprint reads all tables, chains and rules that the variant's part of the kernel holds for the
// namespace, those of others too, and returns their SHA-256 in hexadecimal. Equal ones mean equal rules in
// equal order, equal hooks, policies and table flags. Counters and handles do not matter, nor do tables of
// iptables that hold nothing. What nf_tables sets hold is not looked at: iptables has none. Fingerprints
// compare on one running kernel only. No program is run. Reading is not cut short when ctx ends, since it
// takes less than a millisecond.
func (t *Tables) Fingerprint(ctx context.Context, ns *netns.Namespace) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("fingerprint of the rules in %s: %w", ns.Path(), err)
	}
	read := fingerprintNFT
	if t.variant.legacy {
		read = fingerprintLegacy
	}
	var sum string
	err := ns.Do(func() (err error) {
		sum, err = read()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fingerprint of the rules in %s: %w", ns.Path(), err)
	}
	return sum, nil
}

// Own reads the rules of the footprint that the namespace holds, those of another plan too; none of IPv6
// where ip6tables cannot be used.
func (t *Tables) Own(ctx context.Context, ns *netns.Namespace, footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	v4.Family, v6.Family = rules.IPv4, rules.IPv6
	err = t.eachFamily(rules.Plan{}, func(empty rules.Ruleset) error {
		have, err := t.save(ctx, ns, empty.Family)
		if err != nil {
			return err
		}
		if empty.Family == rules.IPv6 {
			v6 = have.Own(footprint)
		} else {
			v4 = have.Own(footprint)
		}
		return nil
	})
	return v4, v6, err
}

// errMoved is a reading during which the rules were changed: what was read is of two states.
var errMoved = errors.New("the rules were changed while they were read")

// settled calls read until the rules stay as they are meanwhile.
func settled(read func() (string, error)) (string, error) {
	const tries = 10 // each far shorter than the time in which a program can write rules again
	for range tries {
		sum, err := read()
		if !errors.Is(err, errMoved) {
			return sum, err
		}
	}
	return "", fmt.Errorf("%w, %d times in a row: see what keeps writing rules in this namespace, and try again", errMoved, tries)
}

// digest hashes a list of fields, each with its length before it, so that no two lists are taken for the same.
type digest struct{ sum hash.Hash }

func newDigest() digest { return digest{sha256.New()} }

func (d digest) add(field []byte) {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(field)))
	d.sum.Write(length[:])
	d.sum.Write(field)
}

func (d digest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }
