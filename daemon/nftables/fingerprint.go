// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/daemon/netns"
)

// Fingerprint reads all tables, chains and rules of the namespace, those of others and of iptables-legacy
// too, and returns their SHA-256 in hexadecimal. Equal ones mean equal rules in equal order, equal hooks,
// policies and table flags. Counters and handles do not matter, nor do tables of iptables that hold nothing. What sets of others hold counts as far as it is read to judge rules.
// Fingerprints compare on one running kernel only.
// The generation is what Generation returns as long as nobody changes anything; "" where that would not show a change.
func (Tables) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	err = ns.Within(ctx, "fingerprint of the rules", func() error {
		return look(func(s state, old []byte) error {
			fingerprint, generation = s.fingerprint(old), s.moment(old)
			return nil
		})
	})
	return fingerprint, generation, err
}

// Generation returns a text that changes with every change of the namespace's rules. It is one question to
// the kernel, and a look at whether there are tables of iptables-legacy, whose changes nf_tables does not
// count: where there are, all of them are read.
func (Tables) Generation(ctx context.Context, ns *netns.Namespace) (generation string, err error) {
	err = ns.Within(ctx, "generation of the rules", func() error {
		old, err := legacy.Read()
		if err != nil {
			return err
		}
		c, err := dialNetfilter()
		if err != nil {
			return err
		}
		defer c.close()
		var s state
		if s.generation, err = generationOf(c); err == nil {
			generation = s.moment(old)
		}
		return err
	})
	return generation, err
}

// look reads the namespace of the calling thread, and what iptables-legacy holds there. The state does not
// outlive fn.
func look(fn func(s state, old []byte) error) error { return (*additions)(nil).look(fn) }

// look leaves out what the kernel adds.
func (a *additions) look(fn func(s state, old []byte) error) error {
	c, err := dialNetfilter()
	if err != nil {
		return err
	}
	defer c.close()
	s, err := netlink.Settled(func() (state, error) {
		c.forget()
		return read(a.of(c))
	})
	if err != nil {
		return err
	}
	old, err := legacy.Read()
	if err != nil {
		return err
	}
	return fn(s, old)
}

// moment names this state among all that the namespace ever had; "" where it can end without a new generation.
func (s state) moment(old []byte) string {
	if s.passes() {
		return ""
	}
	text := hex.EncodeToString(s.generation)
	if len(old) > 0 {
		sum := sha256.Sum256(old)
		text += " legacy " + hex.EncodeToString(sum[:])
	}
	return text
}

// fingerprint leaves out what has no effect.
func (s state) fingerprint(old []byte) string {
	sum := newDigest()
	for _, list := range [...][]object{s.tables, s.chains, s.rules, s.sets, s.elements} {
		for _, o := range list {
			if o.idle && len(o.of(s.rules)) == 0 { // of a table no rule is
				continue
			}
			sum.number(uint32(o.family))
			sum.add(o.text)
		}
		sum.number(^uint32(0)) // the end: no family
	}
	sum.add(old)
	return sum.String()
}

// digest hashes a list of fields, each preceded by its length, so that different lists have different input.
type digest struct {
	sum  hash.Hash
	room [4]byte
}

func newDigest() *digest { return &digest{sum: sha256.New()} }

func (d *digest) number(n uint32) { d.sum.Write(binary.BigEndian.AppendUint32(d.room[:0], n)) }

func (d *digest) add(field []byte) {
	d.number(uint32(len(field)))
	d.sum.Write(field)
}

func (d *digest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }
