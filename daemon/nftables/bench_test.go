// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"

	"github.com/meshnetd/meshnetd/daemon"
	pods "github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What writing and looking costs, each step and its parts.
func BenchmarkSteps(b *testing.B) {
	plan := plans.DualStack(b)
	step := func(name string, s sandbox, inside bool, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			loop := func() error {
				for b.Loop() {
					if err := fn(); err != nil {
						return err
					}
				}
				return nil
			}
			var err error
			if inside {
				err = s.ns.Do(loop)
			} else {
				err = loop()
			}
			if err != nil {
				b.Fatal(err)
			}
		})
	}
	empty, full := newSandbox(b), newSandbox(b)
	full.write(b, plan)
	tables := New(IPTables)
	step("enter", full, false, func() error { return full.ns.Do(func() error { return nil }) })
	step("dial", full, true, func() error { c, err := dialNetfilter(); c.close(); return err })
	step("legacy", full, true, func() error { _, err := legacy.Read(); return err })
	step("look/empty", empty, true, func() error { return look(func(state, []byte) error { return nil }) })
	step("look/full", full, true, func() error { return look(func(state, []byte) error { return nil }) })
	step("Fingerprint", full, false, func() error { _, _, err := Tables{}.Fingerprint(b.Context(), full.ns); return err })
	step("Generation", full, false, func() error { _, err := Tables{}.Generation(b.Context(), full.ns); return err })
	step("Apply/unchanged", full, false, func() error { _, err := tables.Apply(b.Context(), full.ns, plan); return err })
	step("Apply/write and remove", empty, false, func() error {
		if _, err := tables.Apply(b.Context(), empty.ns, plan); err != nil {
			return err
		}
		_, err := tables.Apply(b.Context(), empty.ns, plans.Nothing())
		return err
	})
	step("Verify", full, false, func() error { _, err := tables.Verify(b.Context(), full.ns, plan); return err })
	step("Key", full, false, func() error { _ = plan.Key(); return nil })
}

// kind is a pod whose start is measured.
type kind struct {
	defaults    istio.Defaults
	annotations map[string]string
}

// kinds are dual-stack pods: one that says nothing, and one whose plan is six times as long.
func kinds() map[string]kind {
	standard := istio.Standard()
	standard.DualStack = true
	dns := standard
	dns.DNSCapture = true
	var forty []string
	for i := range 40 {
		forty = append(forty, fmt.Sprint(20000+2*i)) // apart, so that none is merged with the next
	}
	return map[string]kind{
		"default": {defaults: standard},
		"tproxy": {dns, map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY",
			"traffic.sidecar.istio.io/excludeOutboundPorts": strings.Join(forty, ",")}},
	}
}

func (k kind) pod() rules.Pod {
	return rules.Pod{Namespace: "default", Name: "pod", Annotations: lab.Injected(k.annotations),
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}}
}

// What the kernel needs for the batch of a plan when nothing is done but to send it and wait for the answer,
// beside what is done about it: each sample in a fresh namespace, in turns. `make bench` reads the metrics,
// a median and a 99th percentile in nanoseconds for each, whose names begin with a number since they are
// printed in the order of their names.
func BenchmarkBare(b *testing.B) {
	for _, dialect := range []Dialect{IPTables, Native} {
		for name, k := range kinds() {
			b.Run(string(dialect)+"/"+name, func(b *testing.B) {
				tables, plan := New(dialect), plans.Of(b, k.defaults, k.pod())
				peers := []*speed.Peer{bare(b, tables, plan, false), bare(b, tables, plan, true), applied(b, tables, plan),
					fingerprinted(b, tables, plan), verified(b, tables, plan), started(b, tables, k)}
				if err := speed.Interleave(b.Context(), b.N, peers...); err != nil {
					b.Fatal(err)
				}
				for _, p := range peers {
					b.ReportMetric(float64(p.Median()), p.Name+"-median")
					b.ReportMetric(float64(p.P99()), p.Name+"-p99")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// bare sends the batch that Apply would send. What it reads before and after, without which nothing counts as protected, it
// neither keeps nor compares.
func bare(b *testing.B, tables Tables, plan rules.Plan, reading bool) *speed.Peer {
	var s sandbox
	var c *netfilter
	var wire []byte
	prepare := func() error {
		if c != nil { // the batch of the sample before was the right one
			if diffs, err := tables.Verify(b.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
				return fmt.Errorf("the bare batch writes other rules: %v %w", diffs, err)
			}
		}
		want, err := tables.wanted(plan)
		if err != nil {
			return err
		}
		s = newSandbox(b)
		c = s.dial(b)
		wire, err = want.wire(c)
		return err
	}
	send := func() error {
		if err := c.Send(wire); err != nil {
			return err
		}
		packet, err := c.receive()
		if err != nil {
			return err
		}
		_, refused, err := verdictOf(packet)
		return errors.Join(refused, err)
	}
	if !reading {
		return &speed.Peer{Name: "1_sent_and_acknowledged", Prepare: prepare, Do: send}
	}
	return &speed.Peer{Name: "2_and_read_before_and_after", Prepare: prepare, Do: func() error {
		return errors.Join(receiveAll(c, getTables), send(), receiveAll(c, getTables, getChains, getRules))
	}}
}

// receiveAll asks what a look asks, and does nothing with the answers.
func receiveAll(c *netfilter, requests ...uint16) error {
	c.forget()
	_, before := generationOf(c)
	errs := []error{before, c.await()}
	for _, request := range requests {
		_, err := c.ask(request, unix.NFPROTO_UNSPEC, nil)
		errs = append(errs, err)
	}
	_, after := generationOf(c)
	return errors.Join(append(errs, c.await(), after)...)
}

// wire is the batch for a namespace without rules.
func (w wanted) wire(c *netfilter) ([]byte, error) {
	s, err := read(c)
	if err != nil {
		return nil, err
	}
	batch := newBatch(s.generation)
	for _, set := range w.sets {
		have, err := s.decode(set.Family)
		if err != nil {
			return nil, err
		}
		if err := appendEdits(batch, s, have, rules.Edits(have.Ruleset, set, w.footprint)); err != nil {
			return nil, err
		}
	}
	if len(w.native.differences(s)) > 0 {
		if err := w.native.appendTo(batch); err != nil {
			return nil, err
		}
	}
	c.forget()
	return batch.sealed(c.seq), nil
}

// inFresh is a peer that works in a new namespace each time.
func inFresh(b *testing.B, name string, do func(sandbox) error) *speed.Peer {
	var s sandbox
	return &speed.Peer{Name: name, Prepare: func() error { s = newSandbox(b); return nil }, Do: func() error { return do(s) }}
}

func applied(b *testing.B, tables Tables, plan rules.Plan) *speed.Peer {
	return inFresh(b, "3_Apply", func(s sandbox) error {
		_, err := tables.Apply(b.Context(), s.ns, plan)
		return err
	})
}

// fingerprinted is what a node does that has seen the plan before.
func fingerprinted(b *testing.B, tables Tables, plan rules.Plan) *speed.Peer {
	return inFresh(b, "4_Apply_and_Fingerprint", func(s sandbox) error {
		if _, err := tables.Apply(b.Context(), s.ns, plan); err != nil {
			return err
		}
		_, _, err := tables.Fingerprint(b.Context(), s.ns)
		return err
	})
}

func verified(b *testing.B, tables Tables, plan rules.Plan) *speed.Peer {
	return inFresh(b, "5_Apply_and_Verify", func(s sandbox) error {
		if _, err := tables.Apply(b.Context(), s.ns, plan); err != nil {
			return err
		}
		diffs, err := tables.Verify(b.Context(), s.ns, plan)
		if len(diffs) > 0 {
			err = fmt.Errorf("rules written are not the rules read back: %s", diffs[0])
		}
		return err
	})
}

// started is the whole flow of a pod's start.
func started(b *testing.B, tables Tables, k kind) *speed.Peer {
	node := rules.Node{Meshes: []rules.Mesh{istio.New(k.defaults)}, RuntimeHandlers: []string{""}}
	dir, err := os.MkdirTemp("/dev/shm", "meshnetd-bench-") // in memory, as lock_dir is on a node
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	locks, err := netns.MakeLocks(filepath.Join(dir, "locks"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(locks.Close)
	e := daemon.New(policy.Policy{Node: node}, pods.Node{Locks: locks, Firewall: tables}, receipts.In(locks.Directory()), func(outcome.Outcome) {})
	pod := k.pod()
	n := 0
	return inFresh(b, "6_hook", func(s sandbox) error {
		n++
		pod.SandboxID, pod.NetNS = fmt.Sprint(n), s.Path
		if o := e.Enforce(b.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			return fmt.Errorf("%s: %w", o.Result, o.Err)
		}
		return nil
	})
}
