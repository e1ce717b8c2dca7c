// SPDX-License-Identifier: Apache-2.0

package gaps

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// The directions of packets, and the ways that they take in the pod.
const (
	sent     = "sent"
	arriving = "arriving"

	outbound = "outbound"
	within   = "within the pod"
	inbound  = "inbound"
	through  = "through the pod"

	lo = "lo"
)

// scene is a pod, and what its plan names, of which packets that show something else have nothing.
type scene struct {
	plan       rules.Plan
	interfaces []rules.Interface
	proxy      rules.Proxy

	named  map[string]bool // interfaces but lo
	free   uint16          // a port that means nothing
	ports  [1 << 16]int    // how often each is named
	ids    map[uint32]bool
	groups []uint32 // outside of which nobody is captured
	ranges []netip.Prefix
}

func newScene(plan rules.Plan, interfaces []rules.Interface, proxy rules.Proxy) *scene {
	if len(rules.GlobalOf(interfaces)) == 0 { // they are not known
		interfaces = append(slices.Clip(interfaces), rules.Interface{Name: rules.UsualInterface, Addresses: []netip.Addr{rules.Assumed(rules.IPv4), rules.Assumed(rules.IPv6)}})
	}
	s := &scene{plan: plan, interfaces: interfaces, proxy: proxy, named: map[string]bool{}, ids: map[uint32]bool{proxy.UID: true, proxy.GID: true}}
	s.count(53, 53)
	for _, rs := range plan.Rulesets() {
		for r := range rs.All() {
			s.name(r.Rule)
		}
	}
	s.free = s.freePort()
	return s
}

// name notes what a rule names.
func (s *scene) name(r rules.Rule) {
	if to, redirects := r.Target.(rules.Redirect); redirects {
		s.count(to.Port, to.Port)
	}
	for _, m := range r.Match {
		switch v := m.Value.(type) {
		case rules.Addresses:
			s.ranges = append(s.ranges, v.Prefix)
		case rules.Link:
			s.named[s.existing(string(v))] = v != lo
		case rules.IDs:
			if s.ids[v.First] = true; m.Field == rules.FieldGID && m.Not && v.First != s.proxy.GID {
				s.groups = append(s.groups, v.First)
			}
		default:
			for _, r := range ports(m) {
				s.count(r.First, r.Last)
			}
		}
	}
}

// others are the interfaces that rules name, but for lo.
func (s *scene) others() (names []string) {
	for name, named := range s.named {
		if named {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// present returns the interfaces that packets may come and go by: those of the pod, and those that rules name.
func (s *scene) present() []rules.Interface {
	all := slices.Clone(s.interfaces)
	for _, name := range s.others() {
		if !slices.ContainsFunc(all, func(i rules.Interface) bool { return i.Name == name }) {
			all = append(all, rules.Interface{Name: name})
		}
	}
	return all
}

func (s *scene) count(first, last uint16) {
	for port := int(first); port <= int(last); port++ {
		s.ports[port] = max(s.ports[port], s.ports[port]+1)
	}
}

// ports are those of the destination that a match names.
func ports(m rules.Match) []rules.PortRange {
	if m.Field == rules.FieldSourcePort {
		return nil
	}
	return m.Ports()
}

// existing returns an interface of the pod that a rule's word stands for, or a name that it may have.
func (s *scene) existing(word string) string {
	prefix, wild := strings.CutSuffix(word, "+")
	if !wild {
		return word
	}
	for _, i := range s.interfaces {
		if strings.HasPrefix(i.Name, prefix) {
			return i.Name
		}
	}
	return prefix + "0"
}

func direction(p rules.Packet) string {
	if p.Direction == rules.Outbound {
		return sent
	}
	return arriving
}

func (s *scene) way(p rules.Packet) string {
	local := s.local(p.Destination.Addr())
	switch {
	case p.Direction == rules.Outbound && local:
		return within
	case p.Direction == rules.Outbound:
		return outbound
	case local:
		return inbound
	}
	return through
}

// local reports whether an address is one of the pod.
func (s *scene) local(addr netip.Addr) bool {
	return rules.Local(s.interfaces, addr) ||
		slices.ContainsFunc(s.plan.Loopback, func(prefix netip.Prefix) bool { return prefix.Addr() == addr })
}

// ruled reports whether the plan has rules for a family.
func (s *scene) ruled(family rules.Family) bool {
	rs := s.plan.Rulesets()[0]
	if family == rules.IPv6 {
		rs = s.plan.Rulesets()[1]
	}
	return len(rs.Tables) > 0
}

// linkLocal returns an IPv6 address by which neighbours reach the pod.
func (s *scene) linkLocal() (addr netip.Addr, some bool) {
	for _, i := range s.interfaces {
		for _, addr := range i.Addresses {
			if addr.Is6() && addr.IsLinkLocalUnicast() {
				return addr, true
			}
		}
	}
	return addr, false
}

// leads returns the interface by which the pod is reached: the first with an address that others can reach, one that the plan
// does not name where there is any.
func (s *scene) leads() string {
	if k := slices.IndexFunc(s.interfaces, func(i rules.Interface) bool { return i.Reached() && !s.named[i.Name] }); k >= 0 {
		return s.interfaces[k].Name
	}
	return rules.Leading(s.interfaces)
}

// Addresses elsewhere: those for documentation (RFC 5737, RFC 3849), and others where the plan names ranges with those.
var (
	servers = map[rules.Family][]string{rules.IPv4: {"203.0.113.10", "198.51.100.10", "8.8.8.8", "100.64.0.10"}, rules.IPv6: {"2001:db8:1::10", "2620:fe::fe", "fd12::10"}}
	peers   = map[rules.Family][]string{rules.IPv4: {"192.0.2.99", "203.0.113.99", "8.8.8.8"}, rules.IPv6: {"2001:db8::99", "2620:fe::99", "fd12::99"}}
)

// elsewhere returns the first address that is in no range that the plan names, or the first.
func (s *scene) elsewhere(texts []string) netip.Addr {
	for _, text := range texts {
		addr := netip.MustParseAddr(text)
		if !slices.ContainsFunc(s.ranges, func(prefix netip.Prefix) bool { return prefix.Bits() > 0 && prefix.Contains(addr) }) {
			return addr
		}
	}
	return netip.MustParseAddr(texts[0])
}

// freePort returns a port that the plan does not name, or names as seldom as it can.
func (s *scene) freePort() uint16 {
	const usual = 8080
	free := usual
	for i := range s.ports {
		if port := max(1, (usual+i)%len(s.ports)); s.ports[port] < s.ports[free] {
			free = port
		}
	}
	return uint16(free)
}

// nobody returns an id that the plan does not name.
func (s *scene) nobody() uint32 {
	id := uint32(1000)
	for s.ids[id] {
		id++
	}
	return id
}
