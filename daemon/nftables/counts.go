// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// Counts returns how many packets the rules of lockdowns have counted, of both families together, by the names of their counters.
func (Tables) Counts(ctx context.Context, ns *netns.Namespace) (counts map[string]uint64, err error) {
	counts = map[string]uint64{}
	err = ns.Within(ctx, "counters of the rules", func() error {
		c, err := dialNetfilter()
		if err != nil {
			return err
		}
		defer c.close()
		for _, t := range []struct {
			family uint8
			table  string
		}{{unix.NFPROTO_IPV4, rules.LockdownTable}, {unix.NFPROTO_IPV6, rules.LockdownTable}, {nativeFamily, nativeTable}} {
			var of wire
			of.text(unix.NFTA_RULE_TABLE, t.table)
			messages, err := c.ask(getRules, t.family, of)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			list, err := objects(messages, c.spare, readRule)
			if err != nil {
				return err
			}
			for _, o := range list {
				if err := o.count(counts); err != nil {
					return err
				}
			}
			c.forget()
		}
		return nil
	})
	return counts, err
}

// count adds what a rule has counted.
func (o object) count(counts map[string]uint64) error {
	n, err := packets(o.expressions)
	if err != nil || n == 0 {
		return err
	}
	counter, err := o.counter()
	if counter != "" {
		counts[counter] += n
	}
	return err
}

// counter returns the name of a rule's counter; "" where it counts for no lockdown. A native rule's comment begins with it.
func (o object) counter() (string, error) {
	if o.family == nativeFamily {
		counter, _, _ := strings.Cut(commentOf(o.text), counterEnd)
		_, _, found := rules.LockdownCounter(counter)
		if !found {
			return "", nil
		}
		return counter, nil
	}
	r, err := decodeRule(o.ip(), o.expressions)
	return r.Counter(name(o.chain)), err
}

// packets returns what the counters of a rule have counted.
func packets(expressions []byte) (n uint64, err error) {
	err = eachAttribute(expressions, func(element attribute) error {
		kind := ""
		return eachAttribute(element.value, func(a attribute) error {
			switch {
			case a.kind == unix.NFTA_EXPR_NAME:
				kind = name(a.value)
			case a.kind == unix.NFTA_EXPR_DATA && kind == "counter":
				return eachAttribute(a.value, func(a attribute) error {
					if a.kind == unix.NFTA_COUNTER_PACKETS && len(a.value) == 8 {
						n = max(n, binary.BigEndian.Uint64(a.value))
					}
					return nil
				})
			}
			return nil
		})
	})
	return n, err
}
