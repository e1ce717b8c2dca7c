// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// ratio measures how far writing rules is from what others need for the same rules, and from what the kernel
// itself needs.
func (b *bench) ratio() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	plan, err := planOf(dualStack(), rules.Pod{Name: "plan", NetNS: "any", Annotations: lab.Injected(nil),
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}})
	if err != nil {
		return err
	}
	var applying []*application
	for _, w := range n.backends {
		if !w.exec {
			applying = append(applying, b.applies(w, plan))
			continue
		}
		applying = append(applying, b.restores(w, plan, true), b.restores(w, plan, false))
	}
	applying = append(applying, b.istios()...)
	var peers []*speed.Peer
	for _, a := range applying {
		peers = append(peers, &a.Peer)
	}
	if err := speed.Interleave(b.ctx, b.rounds(200), peers...); err != nil {
		return err
	}
	for _, a := range applying {
		if err := b.same(a, plan); err != nil {
			return err
		}
	}
	speed.Table(b.out, fmt.Sprintf("%d rules into a fresh namespace, no look at them after", plan.Rules()), speed.Rows(peers...)...)
	b.notef("all of them wrote the same rules, but for Istio's native table; goal: programs take 10 times as long")
	n.end()
	b.calm()
	return b.bare()
}

// application is one way to write a plan into a fresh namespace.
type application struct {
	speed.Peer
	by        writer
	ns        *netns.Namespace // of the sample to come, or of the last one
	elsewhere bool             // what it writes is judged by effect, not by its words
}

// fresh is what is not measured.
func (b *bench) fresh(a *application) {
	a.Prepare = func() error {
		if a.ns != nil {
			a.ns.Close()
		}
		path, err := b.node.open("10.0.0.1/24", "fd00::1/64")
		if err != nil {
			return err
		}
		a.ns, err = netns.Open(path, b.node.host)
		return err
	}
}

func (b *bench) applies(w writer, plan rules.Plan) *application {
	a := &application{Peer: speed.Peer{Name: "Apply, " + w.label, Absent: w.err}, by: w}
	b.fresh(a)
	a.Do = func() error { _, err := w.Apply(b.ctx, a.ns, plan); return err }
	return a
}

// restores runs the programs of both families, at once as the daemon does, or one after the other.
func (b *bench) restores(w writer, plan rules.Plan, atOnce bool) *application {
	v4 := strings.Fields(w.label)[0] + "-restore"
	v6 := strings.Replace(v4, "iptables", "ip6tables", 1)
	a := &application{Peer: speed.Peer{Absent: w.err}, by: w}
	b.fresh(a)
	first := func() error { return b.restore(v4, a.ns, plan.V4) }
	second := func() error { return b.restore(v6, a.ns, plan.V6) }
	a.Name, a.Do = v4+", then ip6tables", func() error { return errors.Join(first(), second()) }
	if atOnce {
		a.Name, a.Do = v4+", ip6tables beside it", func() error {
			ended := make(chan error)
			go func() { ended <- first() }()
			return errors.Join(second(), <-ended)
		}
	}
	return a
}

func (b *bench) restore(program string, ns *netns.Namespace, set rules.Ruleset) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(b.ctx, program, "--noflush")
	if strings.HasSuffix(program, "-legacy-restore") {
		cmd.Env = []string{"XTABLES_LOCKFILE=/dev/null"} // as nobody else holds it, waiting for it is not their share
	}
	cmd.Stdin, cmd.Stderr = strings.NewReader(set.String()), &stderr
	if err := b.node.isolated.Do(b.ctx, ns, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// same fails where what was measured did not write the same rules as the others.
func (b *bench) same(a *application, plan rules.Plan) error {
	if a.Absent != nil {
		return nil
	}
	defer a.ns.Close()
	if a.elsewhere {
		return b.compared(a, plan)
	}
	diffs, err := a.by.Verify(b.ctx, a.ns, plan)
	if err != nil {
		return err
	}
	if len(diffs) > 0 {
		return fmt.Errorf("%s writes other rules than the rest: %s", a.Name, diffs[0])
	}
	return nil
}
