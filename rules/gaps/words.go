// SPDX-License-Identifier: Apache-2.0

package gaps

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// gaps puts what was found into words.
func (f *finder) gaps() (all []rules.Gap) {
	if !f.ruled(rules.IPv6) {
		all = append(all, f.withoutIPv6())
	}
	for _, g := range slices.SortedFunc(maps.Values(f.found), f.order) {
		var what string
		if g.protocol != "" {
			what = f.noRule(g)
		} else {
			what = f.reason(g, f.reasons[g.why].rules)
		}
		all = append(all, rules.Gap{What: what, Packet: &g.packet, Covers: f.covers(g)})
	}
	if f.beyond {
		all = append(all, rules.Gap{What: "what else goes around the proxy cannot be told: the rules are too many", Covers: func(rules.Packet) bool { return false }})
	}
	return append(all, f.earlier())
}

// withoutIPv6 is the gap of a pod without rules for IPv6.
func (f *finder) withoutIPv6() rules.Gap {
	has := "no address of it now, and may get one"
	if addr, some := rules.Own(f.interfaces, rules.IPv6); some {
		has = addr.String()
	} else if addr, some := f.linkLocal(); some {
		has = addr.String()
	}
	because := ""
	if f.plan.OnlyIPv4 != "" {
		because = " (" + f.plan.OnlyIPv4 + ")"
	}
	p := f.bases(rules.IPv6)[0]
	return rules.Gap{Packet: &p, Covers: func(p rules.Packet) bool { return p.Family() == rules.IPv6 && begins(p) },
		What: "IPv6, all of it: the pod has " + has + ", and its proxy speaks only IPv4" + because +
			`; ipv6 = "capture" or "block" in the configuration changes that`}
}

// earlier is the gap of connections that were there before the rules.
func (f *finder) earlier() rules.Gap {
	family := rules.IPv4
	if _, some := rules.Own(f.interfaces, rules.IPv4); !some && f.ruled(rules.IPv6) {
		if _, some := rules.Own(f.interfaces, rules.IPv6); some {
			family = rules.IPv6
		}
	}
	p := f.bases(family)[0]
	p.State = rules.StateEstablished
	return rules.Gap{What: "connections that were open before these rules were there stay as they are: those of a pod that was taken over late",
		Packet: &p, Covers: func(p rules.Packet) bool {
			return p.State == rules.StateEstablished && p.Mark == 0 && p.ConnMark == 0 && !p.Transparent
		}}
}

// noRule is about packets that no rule lets go, since none is for them.
func (f *finder) noRule(g *group) string {
	over := ""
	if len(g.families) == 1 && f.ruled(rules.IPv4) && f.ruled(rules.IPv6) {
		over = map[bool]string{false: " over IPv4", true: " over IPv6"}[g.families[rules.IPv6]]
	}
	switch {
	case g.protocol == rules.UDP:
		return "UDP, ICMP and SCTP, in and out: the rules redirect TCP. " + f.lookups()
	case g.way == through:
		return "TCP" + over + " that is forwarded through the pod, such as from a virtual machine in it: no rule is for it"
	case !f.taken[key{way: g.way, protocol: g.protocol}]:
		return named(g.way, "TCP"+over) + ", all of it: no rule gives any of it to the proxy"
	}
	return named(g.way, "TCP"+over) + " apart from what the rules name: only what is included is captured"
}

// lookups says what becomes of name lookups over UDP.
func (f *finder) lookups() string {
	var whys []string
	for _, rs := range f.plan.Rulesets() {
		for r := range rs.All() {
			switch r.Target.(type) {
			case rules.Redirect, rules.DNAT, rules.RejectWith:
				if slices.Contains(r.Match, rules.Protocol(rules.UDP)) {
					whys = append(whys, r.Why+map[bool]string{true: " (IPv6 is refused)"}[r.Table == "filter"])
				}
			}
		}
	}
	if len(whys) == 0 {
		return "Name lookups over UDP are among it"
	}
	return "Of UDP they take only name lookups: " + strings.Join(rules.Unique(whys), ", ")
}

// named puts the way and the protocols of packets together.
func named(way, protocols string) string {
	if way == within || way == through {
		return protocols + " " + way
	}
	return way + " " + protocols
}

// reason is about packets that a rule lets go, or sends elsewhere.
func (f *finder) reason(g *group, its []rules.Rule) string {
	protocols, other := "TCP", g.packet
	if other.Protocol = rules.UDP; g.packet.Protocol == rules.UDP {
		protocols, other.Protocol = "UDP", rules.TCP
	}
	if k, around := f.classify(other); around && k == g.key {
		protocols = "TCP and UDP"
	}
	way := f.way(g.packet)
	what := named(way, protocols) + conditions(g.why, its) + ": " + strings.TrimPrefix(g.why, way+" ")
	for _, r := range its {
		if to, elsewhere := r.Target.(rules.DNAT); elsewhere {
			return fmt.Sprintf("%s, at %s", what, to.To)
		}
	}
	if slices.ContainsFunc(its, f.ofProxy) {
		what += "; whatever else runs so goes around it too"
	}
	return what
}

// ofProxy reports whether a rule is for what the proxy sends.
func (f *finder) ofProxy(r rules.Rule) bool {
	return slices.Contains(r.Match, rules.OwnerUID(f.proxy.UID)) || slices.Contains(r.Match, rules.OwnerGID(f.proxy.GID))
}

// conditions are those of a gap's rules that its reason does not name.
func conditions(why string, its []rules.Rule) string {
	var owners, from, to, at []string
	add := func(words *[]string, word string) {
		if value := word[strings.LastIndex(word, " ")+1:]; !strings.Contains(why, value) && !slices.Contains(*words, word) {
			*words = append(*words, word)
		}
	}
	for _, r := range its {
		for _, m := range r.Match {
			if m.Not {
				continue
			}
			switch v := m.Value.(type) {
			case rules.IDs:
				if v.First == v.Last {
					add(&owners, fmt.Sprintf("%s %d", map[rules.Field]string{rules.FieldUID: "user", rules.FieldGID: "group"}[m.Field], v.First))
				}
			case rules.Addresses:
				words := map[rules.Field]*[]string{rules.FieldSource: &from, rules.FieldDestination: &to}[m.Field]
				add(words, v.String())
			default:
				for _, r := range ports(m) {
					add(&at, r.String())
				}
			}
		}
	}
	text := ""
	for _, part := range []struct {
		word string
		of   []string
	}{{" of ", owners}, {" from ", from}, {" to ", to}, {" to port ", at}} {
		if len(part.of) > 0 {
			text += part.word + strings.Join(part.of, " or ")
		}
	}
	return text
}
