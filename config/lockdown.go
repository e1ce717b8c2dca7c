// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Modes and verdicts of a lockdown, and what its keys are where they close nothing or something.
const (
	lockReport  = "report"
	lockEnforce = "enforce"
	lockReject  = "reject"
	lockDrop    = "drop"
	lockAny     = "any"
	lockErrors  = "errors"
	lockNone    = "none"
	lockProxy   = "proxy"
)

// How much of a lockdown can be written, since each of it becomes rules of every pod in its namespaces.
const (
	mostLockdowns = 16
	mostPeers     = 64
	mostServers   = 8
	mostLocal     = 60
)

// lockdowns reads what goes around the proxy, and is closed or counted.
func lockdowns(c *Config) list {
	return list{at: func(place string) { c.Lockdowns[len(c.Lockdowns)-1].Place = place }, add: func() (map[string]setter, func() map[string]string) {
		c.Lockdowns = append(c.Lockdowns, rules.Lockdown{})
		number := len(c.Lockdowns)
		l := &c.Lockdowns[number-1]
		return map[string]setter{
				"namespaces": texts(&l.Namespaces, pattern),
				"mode":       either(&l.Enforce, lockReport, lockEnforce),
				"verdict":    either(&l.Drop, lockReject, lockDrop),
				"unmeshed": word(func(s string) { l.Unmeshed = rules.Unmeshed(s) },
					lockAny, string(rules.UnmeshedReport), string(rules.UnmeshedRefuse)),
				"raw": word(func(s string) { l.Raw = rules.Raw(s) }, lockAny, string(rules.RawReport), string(rules.RawRefuse)),

				"udp": word(func(s string) { l.UDP = rules.LockedUDP(s) },
					lockAny, string(rules.UDPLookups), string(rules.UDPNoQUIC), string(rules.UDPNone)),
				"dns_servers":     servers(&l.DNSServers),
				"icmp":            word(func(s string) { l.ICMP = s != "" }, lockAny, lockErrors, lockNone),
				"other_protocols": either(&l.Others, lockAny, lockNone),

				"egress":        either(&l.Egress, lockAny, lockProxy),
				"proxy_egress":  peers(&l.ProxyEgress),
				"inbound":       either(&l.Inbound, lockAny, lockProxy),
				"allow":         peers(&l.Allow),
				"allow_inbound": peers(&l.Admit),

				"local_ports":      then(portRanges(&l.LocalPorts), func() error { return atMost(len(rules.MergePorts(l.LocalPorts)), mostLocal) }),
				"local_ports_root": boolean(&l.LocalRoot),
			}, func() map[string]string {
				problems := between(c.Lockdowns[number-1], c.Lockdowns[:number-1])
				maps.Copy(problems, contradicting(*l, number))
				return problems
			}
	}}
}

// either reads one of two words, and sets the target for the second one.
func either(target *bool, off, on string) setter {
	return word(func(s string) { *target = s == on }, off, on)
}

// word reads one of several words; the first one that is "any" is nothing.
func word(store func(string), words ...string) setter {
	var raw string
	return then(text(&raw, oneOf(words)), func() error {
		if raw == lockAny {
			raw = ""
		}
		store(raw)
		return nil
	})
}

func atMost(n, most int) error {
	if n > most {
		return fmt.Errorf("%d are more than the %d that there may be: each is a rule of every pod", n, most)
	}
	return nil
}

func servers(target *[]netip.Addr) setter {
	return then(each(target, func(s string) (netip.Addr, error) {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" || addr.Is4In6() || addr.IsUnspecified() {
			return addr, fmt.Errorf("%q is no address of a name server, such as 10.96.0.10", s)
		}
		return addr, nil
	}), func() error { return atMost(len(*target), mostServers) })
}

// named are peers that clouds and clusters have at the same addresses everywhere.
var named = map[string][]string{
	"imds":           {"169.254.169.254/32:80/tcp", "fd00:ec2::254/128:80/tcp"},
	"pod-identity":   {"169.254.170.23/32:80/tcp", "fd00:ec2::23/128:80/tcp"},
	"node-local-dns": {"169.254.20.10/32:53/udp", "169.254.20.10/32:53/tcp"},
}

// peers reads CIDR:PORT/PROTOCOL, and names for some of these.
func peers(target *[]rules.Peer) setter {
	var all []rules.Peer
	add := func(s, word string) error {
		p, problem := rules.ParsePeer(word)
		if problem != "" {
			return fmt.Errorf("%q is %s; names are imds, pod-identity and node-local-dns", s, problem)
		}
		for _, earlier := range all {
			switch {
			case earlier.Covers(p):
				return fmt.Errorf("%q says nothing that %s does not", s, earlier)
			case p.Covers(earlier):
				return fmt.Errorf("%q says nothing that %s does not", earlier, s)
			}
		}
		all = append(all, p)
		return nil
	}
	var raw []string
	return then(texts(&raw, func(s string) error {
		words, ok := named[s]
		if !ok {
			words = []string{s}
		}
		for _, w := range words {
			if err := add(s, w); err != nil {
				return err
			}
		}
		return nil
	}), func() error {
		*target = all
		return atMost(len(all), mostPeers)
	})
}

// contradicting finds keys of a lockdown that have no effect without others, and a lockdown that has none.
func contradicting(l rules.Lockdown, number int) map[string]string {
	problems := map[string]string{}
	without := func(key string, said, closed bool, needs string) {
		if said && !closed {
			problems[key] = "has no effect without " + needs
		}
	}
	out := l.UDP != "" || l.Egress || l.Others
	without("dns_servers", len(l.DNSServers) > 0, l.UDP == rules.UDPLookups, `udp = "dns"`)
	without("proxy_egress", len(l.ProxyEgress) > 0, l.Egress, `egress = "proxy"`)
	without("allow", len(l.Allow) > 0, out, `udp, egress or other_protocols`)
	without("allow_inbound", len(l.Admit) > 0, l.Inbound, `inbound = "proxy"`)
	without("local_ports_root", l.LocalRoot, len(l.LocalPorts) > 0, "local_ports")
	if !out && !l.ICMP && !l.Inbound && len(l.LocalPorts) == 0 && l.Unmeshed == "" && l.Raw == "" {
		problems[""] = "closes nothing: " + strings.Join([]string{"udp", "icmp", "other_protocols", "egress", "inbound", "local_ports", "unmeshed", "raw"}, ", ") + " are left out or any"
	}
	if number > mostLockdowns {
		problems[""] = fmt.Sprintf("is one more than the %d that there may be", mostLockdowns)
	}
	return problems
}
