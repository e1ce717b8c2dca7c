// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// Counts returns what the lockdowns of the namespace have counted.
func (Tables) Counts(ctx context.Context, ns *netns.Namespace) (map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("counters of the rules in %s: %w", ns.Path(), err)
	}
	return Counts(ns)
}

// Counts returns how many packets the first rule of each lockdown's chain has counted, of both families together, by the
// chain's name.
func Counts(ns *netns.Namespace) (counts map[string]uint64, err error) {
	counts = map[string]uint64{}
	err = ns.Do(func() error {
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
			if err := count(counts, messages); err != nil {
				return err
			}
			c.forget()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("counters of the rules in %s: %w", ns.Path(), err)
	}
	return counts, nil
}

// count adds what the messages, the rules of one table in their order, have counted.
func count(counts map[string]uint64, messages []message) error {
	seen := map[string]bool{}
	for _, m := range messages {
		var chain string
		var expressions []byte
		if err := eachAttribute(m.attributes, func(a attribute) error {
			switch a.kind {
			case unix.NFTA_RULE_CHAIN:
				chain = name(a.value)
			case unix.NFTA_RULE_EXPRESSIONS:
				expressions = a.value
			}
			return nil
		}); err != nil {
			return err
		}
		if seen[chain] {
			continue
		}
		seen[chain] = true
		plain := strings.TrimPrefix(strings.TrimPrefix(chain, "ip-"+rules.LockdownTable+"-"), "ip6-"+rules.LockdownTable+"-")
		if _, _, found := rules.LockdownChain(plain); !found {
			continue
		}
		n, err := packets(expressions)
		if err != nil {
			return err
		}
		counts[plain] += n
	}
	return nil
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
