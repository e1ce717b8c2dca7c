// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package routing does by route netlink what a plan needs beside packet-filter rules: policy rules and
// routes for TPROXY, addresses on lo. It also reads the pod's addresses. Its functions act on the network
// namespace of the calling thread: call them within netns.Namespace.Do.
package routing

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// Handle speaks route netlink in the namespace of the thread that opened it. It is for one thread at a time, and for one look at
// the namespace: what it read counts until it writes there.
type Handle struct {
	asker  asker
	rules  map[rules.Family][]policy
	routes map[rules.PolicyRoute]bool
	addrs  []addr // of all interfaces; nil is not read yet
}

// Open opens a Handle, which the caller closes. It needs a socket first when it is asked something.
func Open() *Handle {
	return &Handle{rules: map[rules.Family][]policy{}, routes: map[rules.PolicyRoute]bool{}}
}

// Close closes the socket.
func (h *Handle) Close() { h.asker.close() }

// create is for what must not be there yet.
const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// lo is the loopback interface, which is the first of every namespace (LOOPBACK_IFINDEX in net/flow.h).
const lo = 1

func (h *Handle) readAddresses() (err error) {
	if h.addrs != nil {
		return nil
	}
	if h.addrs, err = h.asker.listAddresses(); err != nil {
		return fmt.Errorf("read the pod's addresses: %w", err)
	}
	return nil
}

// Apply makes policy rules, routes and loopback addresses those of the plan, and says whether it had to
// change anything. Of the plan's footprint, what the plan does not have is taken out; everything else
// stays. It may be called again.
func (h *Handle) Apply(plan rules.Plan) (changed bool, err error) {
	do := func(step func() (bool, error)) {
		did, stepErr := step()
		changed = changed || did
		err = errors.Join(err, stepErr)
	}
	for _, r := range plan.Footprint.Routes {
		if !slices.Contains(plan.Routes, r) {
			do(func() (bool, error) { return h.removeRoute(r) })
		}
	}
	for _, prefix := range plan.Footprint.Loopback {
		if !slices.Contains(plan.Loopback, prefix) {
			do(func() (bool, error) { return h.removeAddress(prefix) })
		}
	}
	for _, r := range plan.Routes {
		do(func() (bool, error) { return h.addRoute(r) })
	}
	for _, prefix := range plan.Loopback {
		do(func() (bool, error) { return h.addAddress(prefix) })
	}
	return changed, err
}

// Verify returns a line for each way in which the namespace does not hold the plan.
func (h *Handle) Verify(plan rules.Plan) ([]string, error) {
	var diffs []string
	compare := func(what string, want bool, have bool) {
		switch {
		case want && !have:
			diffs = append(diffs, "missing: "+what)
		case have && !want:
			diffs = append(diffs, "unexpected: "+what)
		}
	}
	for _, r := range rules.Unique(slices.Concat(plan.Routes, plan.Footprint.Routes)) {
		want := slices.Contains(plan.Routes, r)
		n, routed, err := h.presence(r)
		if err != nil {
			return nil, err
		}
		if n <= 1 && want == (n == 1) && want == routed {
			continue
		}
		what := fmt.Sprintf("%s rule fwmark %#x lookup %d", ipCommand(r.Family), r.Mark, r.Table)
		compare(what, want, n > 0)
		if n > 1 {
			diffs = append(diffs, fmt.Sprintf("unexpected: %s, %d times", what, n))
		}
		compare(fmt.Sprintf("%s route local default dev lo table %d", ipCommand(r.Family), r.Table), want, routed)
	}
	for _, prefix := range rules.Unique(slices.Concat(plan.Loopback, plan.Footprint.Loopback)) {
		have, err := h.hasAddress(prefix)
		if err != nil {
			return nil, err
		}
		compare("address "+prefix.String()+" dev lo", slices.Contains(plan.Loopback, prefix), have)
	}
	return diffs, nil
}

// presence counts the copies of the policy rule, and reports whether the route is there.
func (h *Handle) presence(r rules.PolicyRoute) (policies int, routed bool, err error) {
	found, err := h.policyRules(r)
	if err != nil {
		return 0, false, err
	}
	routed, err = h.hasRoute(r)
	return len(found), routed, err
}

// Own reads which routes and addresses of the footprint the namespace holds. A route that is there in part or more than
// once is listed twice, so that the result equals no plan.
func (h *Handle) Own(footprint rules.Footprint) (rules.Plan, error) {
	own := rules.Plan{Footprint: footprint}
	for _, r := range footprint.Routes {
		n, routed, err := h.presence(r)
		if err != nil {
			return rules.Plan{}, err
		}
		switch {
		case n == 0 && !routed:
		case n == 1 && routed:
			own.Routes = append(own.Routes, r)
		default:
			own.Routes = append(own.Routes, r, r)
		}
	}
	for _, prefix := range footprint.Loopback {
		have, err := h.hasAddress(prefix)
		if err != nil {
			return rules.Plan{}, err
		}
		if have {
			own.Loopback = append(own.Loopback, prefix)
		}
	}
	return own, nil
}

func ipCommand(f rules.Family) string {
	if f == rules.IPv6 {
		return "ip -6"
	}
	return "ip"
}

// addRoute adds the policy rule and the route where they are missing. The kernel accepts the same policy rule twice, so it
// is asked first, and a duplicate is taken out.
func (h *Handle) addRoute(r rules.PolicyRoute) (changed bool, err error) {
	found, err := h.policyRules(r)
	if err != nil {
		return false, err
	}
	defer h.wrote(r.Family)
	if len(found) == 0 {
		if err := h.asker.change(unix.RTM_NEWRULE, create, policyRule(r)); err != nil {
			return false, fmt.Errorf("%s rule add fwmark %#x lookup %d: %w", ipCommand(r.Family), r.Mark, r.Table, err)
		}
	} else if err := h.removeRules(r, found[1:]); err != nil {
		return false, err
	}
	changed = len(found) != 1
	err = h.asker.change(unix.RTM_NEWROUTE, create, localDefault(r, unix.RTPROT_BOOT))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return changed, fmt.Errorf("%s route add local default dev lo table %d: %w", ipCommand(r.Family), r.Table, err)
	}
	return changed || err == nil, nil
}

func (h *Handle) removeRoute(r rules.PolicyRoute) (changed bool, err error) {
	found, err := h.policyRules(r)
	if err != nil {
		return false, err
	}
	if len(found) > 0 {
		defer h.wrote(r.Family)
	}
	if err := h.removeRules(r, found); err != nil {
		return false, err
	}
	routed, err := h.hasRoute(r)
	if err != nil || !routed {
		return len(found) > 0, err
	}
	defer h.wrote(r.Family)
	if err := h.asker.change(unix.RTM_DELROUTE, 0, localDefault(r, unix.RTPROT_UNSPEC)); err != nil {
		return len(found) > 0, fmt.Errorf("%s route del local default dev lo table %d: %w", ipCommand(r.Family), r.Table, err)
	}
	return true, nil
}

// removeRules takes each rule out by its priority: a rule of somebody else may ask for the same mark and more.
func (h *Handle) removeRules(r rules.PolicyRoute, found []policy) error {
	for _, rule := range found {
		own := netlink.AppendNumber(policyRule(r), unix.FRA_PRIORITY, rule.priority)
		if err := h.asker.change(unix.RTM_DELRULE, 0, own); err != nil {
			return fmt.Errorf("%s rule del fwmark %#x lookup %d: %w", ipCommand(r.Family), r.Mark, r.Table, err)
		}
	}
	return nil
}

// policyRules returns the policy rules that are nothing but "fwmark MARK lookup TABLE".
func (h *Handle) policyRules(r rules.PolicyRoute) (found []policy, err error) {
	all, read := h.rules[r.Family]
	if !read {
		if all, err = h.asker.listPolicies(r.Family); err != nil {
			return nil, fmt.Errorf("%s rule list: %w", ipCommand(r.Family), err)
		}
		h.rules[r.Family] = all
	}
	for _, p := range all {
		if p.mark == r.Mark && p.table == r.Table {
			found = append(found, p)
		}
	}
	return found, nil
}

func (h *Handle) hasRoute(r rules.PolicyRoute) (routed bool, err error) {
	if routed, read := h.routes[r]; read {
		return routed, nil
	}
	if routed, err = h.asker.listLocalDefault(r); err != nil {
		return false, fmt.Errorf("%s route list table %d: %w", ipCommand(r.Family), r.Table, err)
	}
	h.routes[r] = routed
	return routed, nil
}

// wrote drops what was read of the family's policy rules and routes.
func (h *Handle) wrote(f rules.Family) {
	delete(h.rules, f)
	for r := range h.routes {
		if r.Family == f {
			delete(h.routes, r)
		}
	}
}

func (h *Handle) addAddress(prefix netip.Prefix) (changed bool, err error) {
	if have, err := h.hasAddress(prefix); err != nil || have {
		return false, err
	}
	h.addrs = nil
	err = h.asker.change(unix.RTM_NEWADDR, create, onLo(prefix))
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			hint = " (is net.ipv6.conf.lo.disable_ipv6 set in the pod?)"
		}
		return false, fmt.Errorf("ip addr add %s dev lo: %w%s", prefix, err, hint)
	}
	return true, nil
}

func (h *Handle) removeAddress(prefix netip.Prefix) (changed bool, err error) {
	// Asked first: a kernel without IPv6 does not even know the request to remove such an address.
	have, err := h.hasAddress(prefix)
	if err != nil || !have {
		return false, err
	}
	h.addrs = nil
	if err := h.asker.change(unix.RTM_DELADDR, 0, onLo(prefix)); err != nil {
		return false, fmt.Errorf("ip addr del %s dev lo: %w", prefix, err)
	}
	return true, nil
}

func (h *Handle) hasAddress(prefix netip.Prefix) (bool, error) {
	if err := h.readAddresses(); err != nil {
		return false, err
	}
	return slices.Contains(h.addrs, addr{lo, prefix}), nil
}
