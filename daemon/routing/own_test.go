// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// pod is a namespace with addresses, for commands and for our code.
type pod struct {
	*nstest.Namespace
	ns *netns.Namespace
}

func newPod(t testing.TB) pod {
	t.Helper()
	p := pod{Namespace: nstest.New(t, "10.0.0.7/24", "fd00::7/64")}
	var err error
	if p.ns, err = netns.Open(p.Path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.ns.Close)
	return p
}

func (p pod) do(t testing.TB, fn func(*Handle) error) {
	t.Helper()
	if err := p.try(fn); err != nil {
		t.Fatal(err)
	}
}

func (p pod) try(fn func(*Handle) error) error {
	return p.ns.Do(func() error {
		h := Open()
		defer h.Close()
		return fn(h)
	})
}

var order = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(rules.PolicyRoute{}, netip.Prefix{})}

// Own reads the whole of a plan, and takes nothing for a part of one that is not all there.
func TestOwn(t *testing.T) {
	footprint := istio.New(istio.Defaults{}).Footprint()
	v4, v6 := footprint.Routes[0], footprint.Routes[1]
	full := rules.Plan{Routes: footprint.Routes, Loopback: footprint.Loopback, Footprint: footprint}
	only := func(routes ...rules.PolicyRoute) rules.Plan {
		return rules.Plan{Routes: routes, Loopback: footprint.Loopback, Footprint: footprint}
	}
	for name, tt := range map[string]struct {
		plan   rules.Plan
		change string
		want   rules.Plan
	}{
		"nothing":         {rules.Plan{Footprint: footprint}, "", rules.Plan{Footprint: footprint}},
		"everything":      {full, "", full},
		"one family":      {only(v6), "", only(v6)},
		"no address":      {full, "ip addr del ::6/128 dev lo", rules.Plan{Routes: footprint.Routes, Footprint: footprint}},
		"no policy rule":  {full, "ip rule del fwmark 1337", only(v4, v4, v6)},
		"no route":        {full, "ip -6 route flush table 133", only(v4, v6, v6)},
		"two rules":       {full, "ip rule add fwmark 1337 lookup 133 pref 7", only(v4, v4, v6)},
		"rule by itself":  {only(v6), "ip rule add fwmark 1337 lookup 133", only(v4, v4, v6)},
		"route by itself": {only(v6), "ip route add local default dev lo table 133", only(v4, v4, v6)},
		"others": {only(v6), "ip rule add fwmark 7 lookup 133; ip rule add fwmark 1337 ipproto udp lookup 133; ip addr add ::7/128 dev lo",
			only(v6)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			p.do(t, func(h *Handle) error { _, err := h.Apply(tt.plan); return err })
			p.Run(t, "sh", "-ec", tt.change)
			var own rules.Plan
			p.do(t, func(h *Handle) (err error) { own, err = h.Own(footprint); return err })
			if diff := cmp.Diff(tt.want, own, order); diff != "" {
				t.Errorf("(-want +read):\n%s", diff)
			}
			var diffs []string
			p.do(t, func(h *Handle) (err error) { diffs, err = h.Verify(tt.plan); return err })
			if equal := cmp.Equal(tt.plan, own, order); equal != (len(diffs) == 0) {
				t.Errorf("the plan is there: %t, but Verify says %q", equal, diffs)
			}
		})
	}
}

// The plans that need most and least to be read; 0.2 ms is the most that a look at a pod may cost.
func BenchmarkRoutingVerify(b *testing.B) {
	footprint := istio.New(istio.Defaults{}).Footprint()
	for name, plan := range map[string]rules.Plan{
		"REDIRECT": {Footprint: footprint},
		"TPROXY":   {Routes: footprint.Routes, Loopback: footprint.Loopback, Footprint: footprint},
	} {
		b.Run(name, func(b *testing.B) {
			p := newPod(b)
			p.do(b, func(h *Handle) error { _, err := h.Apply(plan); return err })
			for b.Loop() {
				p.do(b, func(h *Handle) error {
					diffs, err := h.Verify(plan)
					if len(diffs) > 0 {
						return errors.New(diffs[0])
					}
					return err
				})
			}
		})
	}
}
