// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// This translates all tables of a namespace, whoever wrote them, for package effect. An unknown expression becomes a
// condition that may hold or not, or where it could be more than a condition, an end that cannot be known.

// inetHooks are the hooks of IP by their numbers (NF_INET_*); ingress is none.
var inetHooks = map[uint32]effect.Hook{
	unix.NF_INET_PRE_ROUTING: effect.Prerouting, unix.NF_INET_LOCAL_IN: effect.Input, unix.NF_INET_FORWARD: effect.Forward,
	unix.NF_INET_LOCAL_OUT: effect.Output, unix.NF_INET_POST_ROUTING: effect.Postrouting,
}

// view reads the tables of a state as packets of one family meet them.
type view struct {
	state
	pod     *effect.Pod
	family  rules.Family
	local   effect.Set               // addresses of the pod
	chains  map[string]*effect.Chain // by key
	written map[string]bool          // sets that packets write to, by key
}

// addTo adds every base chain that packets of the side's family meet.
func (s state) addTo(side *effect.Side, pod *effect.Pod, family rules.Family, old []legacy.Contents) error {
	written, err := s.setsNamed("dynset", unix.NFTA_DYNSET_SET_NAME, func(object) bool { return false })
	if err != nil {
		return err
	}
	v := view{s, pod, family, side.Local(), map[string]*effect.Chain{}, written}
	v.addOld(side, old)
	var bases []effect.Base
	for _, c := range s.chains {
		hook, known := inetHooks[c.hook.number]
		table := s.tableOf(c)
		if !v.meets(c) || c.hook.kind == "" || !known || table.dormant {
			continue
		}
		chain, err := v.chain(c)
		if err != nil {
			return err
		}
		b := effect.Base{Chain: chain, Hook: hook, Priority: int(c.hook.priority), Drop: c.hook.policy == drop}
		switch c.hook.kind {
		case "nat":
			b.Kind = effect.NAT
		case "route":
			b.Kind = effect.Route
		}
		if table.fleeting {
			b = unsteady(b)
		}
		bases = append(bases, b)
	}
	side.Add(bases...)
	return nil
}

// meets reports whether packets of the family come to an object of that table.
func (v view) meets(o object) bool {
	return o.family == nfFamily(v.family) || o.family == unix.NFPROTO_INET
}

// tableOf returns the table of a chain; the zero object where it is not there.
func (s state) tableOf(c object) object {
	if found := (object{family: c.family, table: c.table}).of(s.tables); len(found) > 0 {
		return found[0]
	}
	return object{}
}

func (v view) chain(c object) (*effect.Chain, error) {
	key := c.key()
	if known := v.chains[key]; known != nil {
		return known, nil
	}
	chain := &effect.Chain{Name: name(c.table) + " " + name(c.chain)}
	v.chains[key] = chain
	for _, o := range c.of(v.rules) {
		r, err := v.rule(o)
		if err != nil {
			return nil, err
		}
		chain.Rules = append(chain.Rules, r)
	}
	return chain, nil
}

// key names a chain or set among all.
func (o object) key() string {
	return string([]byte{o.family}) + name(o.table) + "\x00" + name(o.chain)
}

// target returns the chain of the object's table that a rule leads to; nil where there is none.
func (v view) target(o object, chain string) (*effect.Chain, error) {
	c := object{family: o.family, table: o.table, chain: append([]byte(chain), 0)}
	found := c.of(v.state.chains)
	if len(found) == 0 {
		return nil, nil
	}
	return v.chain(found[0])
}

// Effect compares what becomes of a pod's packets by all that nf_tables and iptables-legacy hold in the namespace, whoever
// wrote it, with what becomes of them by the plan. have is the plan's routes and addresses that the namespace has.
func (t Tables) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	return judged(ctx, ns, func() (effect.Result, error) { return t.judge(plan, have, interfaces) })
}

// EffectOfLegacy is Effect on a kernel that has no nf_tables.
func EffectOfLegacy(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	return judged(ctx, ns, func() (effect.Result, error) {
		old, err := legacy.Read()
		if err != nil {
			return effect.Result{}, err
		}
		return Tables{}.compare(state{}, old, plan, have, interfaces)
	})
}

func judged(ctx context.Context, ns *netns.Namespace, judge func() (effect.Result, error)) (r effect.Result, err error) {
	err = ns.Within(ctx, "judge the rules", func() (err error) {
		r, err = judge()
		return err
	})
	return r, err
}

var families = []rules.Family{rules.IPv4, rules.IPv6}

// judge is Effect in the namespace of the calling thread.
func (t Tables) judge(plan, have rules.Plan, interfaces []rules.Interface) (r effect.Result, err error) {
	err = t.added.look(func(s state, text []byte) error {
		r, err = t.compare(s, text, plan, have, interfaces)
		return err
	})
	return r, err
}

// compare reads what iptables-legacy holds from text.
func (t Tables) compare(s state, text []byte, plan, have rules.Plan, interfaces []rules.Interface) (r effect.Result, err error) {
	old, err := legacy.Parse(text)
	if err != nil {
		return r, err
	}
	if len(old) == 0 && slices.Equal(plan.Routes, have.Routes) && slices.Equal(plan.Loopback, have.Loopback) {
		if r.Alone, err = t.holdsAlone(s, plan); err != nil || r.Alone {
			return r, err
		}
	}
	if r.Beside, err = s.beside(plan, have, interfaces, old); err != nil {
		return r, err
	}
	var bounds effect.Bounds
	s, old = s.accepted(plan, old)
	for _, family := range families {
		pod := effect.NewPod(interfaces)
		wanted, held := effect.OfPlan(pod, plan, family), effect.NewSide(pod, family, have.Routes, have.Loopback)
		if err := s.addTo(held, pod, family, old); err != nil {
			return r, err
		}
		bounds.Add(wanted, held)
		one := effect.Compare(pod, wanted, held)
		r.Answer, r.Work = max(r.Answer, one.Answer), r.Work+one.Work
		r.Differences = append(r.Differences, one.Differences...)
	}
	if len(r.Beside) == 0 && bounds.Few() {
		r.Bounds = &bounds
	}
	return r, nil
}
