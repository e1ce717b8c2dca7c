// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// CapturePolicy is what the plans of pods in some namespaces have to capture, and which pods an injector's mark does not
// keep out of the mesh. It judges what follows from a pod's settings, whoever wrote them. A nil list allows anything.
type CapturePolicy struct {
	Namespaces  []string // patterns of path.Match; none is every namespace
	Place       string   // in the configuration, as "FILE:LINE"
	AllOutbound bool     // all TCP that is not excluded
	AllInbound  bool
	IPv6        bool // no IPv6 goes around the proxy

	OutboundPorts []PortRange // that may be excluded, as all that follows
	InboundPorts  []PortRange
	Ranges        []netip.Prefix // destinations, and sources of what arrives
	Interfaces    []string
	Users         []uint32 // besides the proxy's
	Groups        []uint32

	Skips     []Reason // for which a pod with an injector's mark may be left alone
	MayLoosen bool     // containers may take away rules that the sandbox has
	Accepted  []string // tables of others that may take from the rules
}

// policy returns the policy for a namespace.
func (n Node) policy(namespace string) (p CapturePolicy, found bool) {
	i := slices.IndexFunc(n.Policies, func(p CapturePolicy) bool {
		return len(p.Namespaces) == 0 || MatchesAny(p.Namespaces, namespace)
	})
	if i < 0 {
		return CapturePolicy{}, false
	}
	return n.Policies[i], true
}

// String names the policy.
func (p CapturePolicy) String() string { return "[[policy]] of " + p.Place }

// forbids says what of a plan the policy does not allow, "" where that is nothing.
func (p CapturePolicy) forbids(plan Plan, proxy Proxy) string {
	if p.IPv6 && plan.WithoutIPv6 == IPv6Mesh {
		return "IPv6 goes around the proxy"
	}
	for _, rs := range plan.Rulesets() {
		for _, d := range []direction{
			{"outbound", "OUTPUT", p.AllOutbound, p.OutboundPorts}, {"inbound", "PREROUTING", p.AllInbound, p.InboundPorts},
		} {
			if problem := d.judge(p, rs, proxy); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// direction is what a policy says about one direction.
type direction struct {
	name, hook string
	all        bool
	ports      []PortRange
}

// judge reads the rules that a packet meets. Each rule that lets packets pass must have at least one match that the policy
// allows to exclude: any further match only narrows the rule.
func (d direction) judge(p CapturePolicy, rs Ruleset, proxy Proxy) (problem string) {
	captures, ruled := false, false
	d.walk(rs, func(r Rule, always bool) {
		ruled = true
		if problem == "" && d.letsGo(p, r, proxy) {
			problem = d.name + " traffic goes around the proxy that the policy does not let go: " + r.Why
		}
		switch r.Target.(type) {
		case Redirect, TProxy:
			captures = captures || always
		}
	})
	if problem == "" && d.all && !captures && (ruled || rs.Family == IPv4) {
		problem = "not all " + d.name + " TCP is captured"
	}
	return problem
}

// walk visits the rules of the tables that can take a direction's packets to the proxy.
func (d direction) walk(rs Ruleset, visit func(r Rule, always bool)) {
	for _, t := range rs.Tables {
		if t.Name == "nat" || t.Name == "mangle" && d.hook == "PREROUTING" {
			t.walk(d.hook, true, len(t.Chains), visit)
		}
	}
}

// letsGo reports whether a rule lets TCP around the proxy that the policy does not let go.
func (d direction) letsGo(p CapturePolicy, r Rule, proxy Proxy) bool {
	return r.Target == Target(Return) && r.mayBe(TCP) && !slices.ContainsFunc(r.Match, func(m Match) bool { return d.mayExclude(p, m, proxy) })
}

// walk visits the rules of a chain and of the chains that it jumps to. always says whether a rule meets all TCP that no
// earlier rule let pass or took.
func (t Table) walk(chain string, always bool, depth int, visit func(r Rule, always bool)) {
	c, _ := t.Chain(chain)
	for _, r := range c.Rules {
		whole := !slices.ContainsFunc(r.Match, narrows)
		if whole && r.Target == Target(Return) {
			return
		}
		visit(r, always && whole)
		if to, ok := r.Target.(Jump); ok && depth > 0 {
			t.walk(string(to), always && whole, depth-1, visit)
		}
	}
}

// narrows reports whether a match leaves out TCP other than the pod's own over lo.
func narrows(m Match) bool {
	switch v := m.Value.(type) {
	case Transport:
		return v != TCP
	case Addresses:
		return m.Field == FieldSource || !m.Not || !v.Addr().IsLoopback()
	case Text:
		return false
	}
	return true
}

func (r Rule) mayBe(protocol string) bool {
	return !slices.ContainsFunc(r.On(FieldProtocol), func(m Match) bool { return m != Protocol(protocol) })
}

// mayExclude reports whether what a match asks for may go around the proxy.
func (d direction) mayExclude(p CapturePolicy, m Match, proxy Proxy) bool {
	switch v := m.Value.(type) {
	case Link:
		return v == loopback || listed(p.Interfaces, string(v))
	case Port, PortList:
		return m.Field != FieldSourcePort && (d.ports == nil || !m.Not && !slices.ContainsFunc(m.Ports(), func(r PortRange) bool { return !d.has(r) }))
	case Addresses:
		return p.Ranges == nil || !m.Not && (m.Field == FieldDestination && v.Addr().IsLoopback() || p.ranges(v.Prefix))
	case IDs:
		of, own := p.Users, proxy.UID
		if m.Field == FieldGID {
			of, own = p.Groups, proxy.GID
		}
		return of == nil || !m.Not && v.First == v.Last && (v.First == own || slices.Contains(of, v.First))
	case Mark: // set with NET_ADMIN only
		return true
	case CTState: // of a connection that was let in or out, or is the proxy's
		return v&StateNew == 0
	}
	return false
}

// listed reports whether a list has an item. A nil list has every item.
func listed[T comparable](list []T, item T) bool { return list == nil || slices.Contains(list, item) }

func (d direction) has(r PortRange) bool {
	return slices.ContainsFunc(d.ports, func(a PortRange) bool { return a.First <= r.First && r.Last <= a.Last })
}

func (p CapturePolicy) ranges(r netip.Prefix) bool {
	return slices.ContainsFunc(p.Ranges, func(a netip.Prefix) bool { return a.Bits() <= r.Bits() && a.Contains(r.Addr()) })
}

func (n Node) marked(pod Pod) bool {
	return slices.ContainsFunc(n.Meshes, func(mesh Mesh) bool { return mesh.Marked(pod) })
}

// govern is the node's last word on what the meshes decide: containers take nothing away that the sandbox has, and what
// follows from a pod's settings is within its namespace's policy.
func (n Node) govern(pod Pod, d Decision) Decision {
	if d.Action == Skip {
		if l, refused := n.unmeshed(pod.Namespace, UnmeshedRefuse); refused {
			detail := fmt.Sprintf("the pod would run without a mesh (%s: %s), and %s refuses that (unmeshed)", d.Reason, d.Detail, l)
			return d.rejected(ReasonUnmeshed, detail)
		}
		l, reported := n.unmeshed(pod.Namespace, UnmeshedReport)
		if reported {
			d.Unmeshed = fmt.Sprintf("the pod runs without a mesh, which %s reports (unmeshed): %s: %s", l, d.Reason, d.Detail)
		}
		if d.Marked = n.marked(pod); !d.Marked { // most pods of a node
			return d
		}
	}
	return n.judge(pod, d)
}

func (n Node) judge(pod Pod, d Decision) Decision {
	policy, found := n.policy(pod.Namespace)
	const ask = "; [[policy]] in the node's configuration says in which namespaces containers may (may_loosen)"
	switch d.Action {
	case Skip:
		if mesh, detail := n.loosened(pod, d); mesh != "" && !policy.MayLoosen {
			d.Mesh = mesh
			return d.rejected(ReasonLoosened, detail+": that would take away the rules that the pod's sandbox has, and no container may"+ask)
		} else if mesh != "" {
			d.Account.step("containers may take rules away in namespace " + pod.Namespace + ", says " + policy.String())
		}
		if found && policy.Skips != nil && !slices.Contains(policy.Skips, d.Reason) {
			return d.rejected(ReasonForbidden, fmt.Sprintf("the pod bears an injector's mark and would be left alone (%s: %s), which %s does not allow", d.Reason, d.Detail, policy))
		}
	case Enrol:
		plans, errs := d.anywhere()
		if problem := n.Budget.exceededBy(plans[:]); problem != "" {
			return d.rejected(ReasonOverBudget, problem)
		}
		d = n.Refusing(pod.Namespace, d)
		if problem := d.Barred(pod, ""); problem != "" {
			return d.rejected(ReasonBypass, problem)
		}
		for i, plan := range plans {
			if errs[i] != nil {
				return d // reported when the plan is made for the pod's own network
			}
			if !policy.MayLoosen {
				if problem := n.looser(d, networks[i], plan); problem != "" {
					return d.rejected(ReasonLoosened, "a container asks for less than the pod's sandbox has ("+problem+"), and none may"+ask)
				}
			}
			if problem := policy.forbids(plan, d.Proxy); found && problem != "" {
				return d.rejected(ReasonForbidden, problem+" ("+policy.String()+")")
			}
		}
		if found {
			d.Account.step("what the plan captures is within " + policy.String())
		}
		return n.lockedDown(pod, d.noting(d.earlyNote(pod)).accepting(policy.Accepted))
	case Reject:
	}
	return d
}

// accepting returns the decision with a plan that accepts tables of others.
func (d Decision) accepting(tables []string) Decision {
	if len(tables) == 0 {
		return d
	}
	return d.planning(func(p *Plan) { p.Accepted = tables })
}

// Loosened says what the containers of a pod took away of what its sandbox alone would have, as only a policy can let them; ""
// is nothing. plan is the pod's, in this network.
func (n Node) Loosened(pod Pod, d Decision, network Network, plan Plan) (what string) {
	if policy, _ := n.policy(pod.Namespace); !policy.MayLoosen {
		return ""
	}
	switch d.Action {
	case Skip:
		_, what = n.loosened(pod, d)
	case Enrol:
		what = n.looser(d, network, plan)
	case Reject:
	}
	return what
}

// loosened returns the mesh that a pod is kept out of only by what its containers say, and how; "" is none.
func (n Node) loosened(pod Pod, d Decision) (mesh, detail string) {
	if len(pod.Containers) == 0 || d.Reason == ReasonNoProxy {
		return "", ""
	}
	alone := pod
	alone.Containers, alone.Complete = nil, false
	without := n.wanted(alone)
	if without.Action != Enrol {
		return "", ""
	}
	for _, m := range n.Meshes {
		if m.Name() == without.Mesh {
			detail = m.Decide(pod).Detail
		}
	}
	return without.Mesh, detail
}

// looser says what a plan lets go that the sandbox's alone would not, "" where that is nothing.
func (n Node) looser(d Decision, network Network, plan Plan) string {
	if d.SandboxPlanner == nil {
		return ""
	}
	before, err := d.SandboxPlanner(network)
	switch {
	case err != nil:
		return err.Error()
	case before.Key() == plan.Key():
		return ""
	case n.Loosening == nil:
		return "its rules are others"
	}
	return n.Loosening(before, plan)
}
