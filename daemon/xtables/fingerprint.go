// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// Fingerprint returns what nftables.Tables does, of which tables of iptables-legacy are a part; on a kernel without nf_tables the
// SHA-256 of what these hold. Reading is not cut short when ctx ends, since it takes less than a millisecond.
func (t *Tables) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	if t.asksNetlink() {
		return unseen.Fingerprint(ctx, ns)
	}
	sum, err := legacyFingerprint(ctx, ns)
	return sum, sum, err
}

// asksNetlink reports whether rules of nf_tables can be there: a pod can have some beside those of the legacy variant.
func (t *Tables) asksNetlink() bool { return t.netlink || !t.variant.legacy }

// Generation returns what nftables.Tables does; iptables-legacy counts no changes, so that its tables are read.
func (t *Tables) Generation(ctx context.Context, ns *netns.Namespace) (string, error) {
	if t.asksNetlink() {
		return unseen.Generation(ctx, ns)
	}
	return legacyFingerprint(ctx, ns)
}

func legacyFingerprint(ctx context.Context, ns *netns.Namespace) (string, error) {
	var text []byte
	err := ns.Within(ctx, "fingerprint of the rules", func() (err error) {
		text, err = legacy.Read()
		return err
	})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
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

// Counts returns what the lockdowns have counted.
func (t *Tables) Counts(ctx context.Context, ns *netns.Namespace) (counts map[string]uint64, err error) {
	if !t.variant.legacy {
		return unseen.Counts(ctx, ns)
	}
	err = ns.Within(ctx, "counters of the rules", func() (err error) {
		counts, err = legacy.Counts()
		return err
	})
	return counts, err
}
