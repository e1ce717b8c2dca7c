// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/document"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// configured reads the configuration. Its keys, with the value of a missing one, or one that is null, as Kuma has it:
//
//	cniMode                                    false    false: kuma-init sets the pod up
//	kumaDPUser                                 5678     a name is refused: it would be looked up in the node's files
//	ipFamilyMode                               dualstack  ipv4: no rules for IPv6; ipv6: the same as dualstack
//	redirect.inbound.enabled, .outbound.enabled  true
//	redirect.inbound.port, .outbound.port      15006, 15001
//	redirect.*.includePorts                    none     all ports; where there are some, excludePorts is not looked at; a list,
//	                                                    or one text with commas
//	redirect.*.excludePorts                    none
//	redirect.*.excludePortsForIPs              none     sources of inbound, destinations of outbound traffic, whatever the port;
//	                                                    those of the other family are left out
//	redirect.outbound.excludePortsForUIDs      none     "UID", "PORTS:UID" or "PROTOCOL:PORTS:UID"; ranges with "-"
//	redirect.inbound.excludePortsForUIDs       none     any is refused: what arrives has no user
//	redirect.dns.enabled                       false
//	redirect.dns.captureAll                    -        must be there and true with enabled: else Kuma's plugin takes the
//	                                                    name servers of the node
//	redirect.dns.port                          15053
//	redirect.dns.skipConntrackZoneSplit        false
//	redirect.vnet.networks                     none     "INTERFACE:CIDR"
//	dropInvalidPackets                         false
//	log.enabled                                false    true is refused: no plan can log
//	ebpf.enabled                               false    true is refused
//	comments.disabled                          false    true: comments are written all the same, and a note says so
//
// Not looked at, since they are about Kuma's own way of writing rules: retry, wait, waitInterval, verbose, dryRun,
// storeFirewalld, iptablesExecutables, redirect.*.insertRedirectInsteadOfAppend (ours come first in any case),
// redirect.dns.resolvConfigPath, log.level, and the rest of ebpf. Any other key is refused unless it is null: it may
// change what the others mean.
func (in *Intent) configured(r *mesh.Reader, text string) (problem string) {
	root, problem := document.Root(text)
	if problem != "" {
		return problem
	}
	var uid string
	var logging, ebpf, quiet, captureAll bool
	var inboundUsers []string
	family := "dualstack"
	problem = object(r, "", root, keys{
		"cniMode": boolean(&in.CNIMode), "kumaDPUser": word(&uid).gives(&in.UID), "ipFamilyMode": word(&family).gives(&in.IPv4Only), "dropInvalidPackets": boolean(&in.DropInvalid),
		"log":      within(keys{"enabled": boolean(&logging), "level": ignored}),
		"comments": within(keys{"disabled": boolean(&quiet)}),
		"ebpf": within(keys{"enabled": boolean(&ebpf), "instanceIP": ignored, "instanceIPEnvVarName": ignored, "bpffsPath": ignored,
			"cgroupPath": ignored, "tcAttachIface": ignored, "programsSourcePath": ignored}),
		"redirect": within(keys{
			"inbound":  in.Inbound.keys(words(&inboundUsers)),
			"outbound": in.Outbound.keys(items(&in.Users, parseUsers)),
			"dns": within(keys{"enabled": boolean(&in.DNSCapture), "captureAll": boolean(&captureAll), "port": port(&in.DNSPort),
				"skipConntrackZoneSplit": boolean(&in.DNSOneZone), "resolvConfigPath": ignored}),
			"vnet": within(keys{"networks": items(&in.Networks, parseNetwork)}),
		}),
		"retry": ignored, "wait": ignored, "waitInterval": ignored, "verbose": ignored, "dryRun": ignored, "storeFirewalld": ignored,
		"iptablesExecutables": ignored,
	})
	if problem != "" {
		return problem
	}
	if uid != "" {
		if in.UID, problem = rules.ParseID(uid); problem != "" {
			return fmt.Sprintf("kumaDPUser: %q is %s", uid, problem)
		}
	}
	switch family {
	case "ipv4":
		in.IPv4Only = true
	case "ipv6", "dualstack":
	default:
		return fmt.Sprintf("ipFamilyMode: %q is not dualstack, ipv4 or ipv6", family)
	}
	switch {
	case logging:
		return "log.enabled: true: packets cannot be logged"
	case ebpf:
		return "ebpf.enabled: true: the rules would not be asked"
	case len(inboundUsers) > 0:
		return "redirect.inbound.excludePortsForUIDs: what arrives has no user"
	case in.DNSCapture && !captureAll:
		return "redirect.dns.captureAll: is not true: the pod's name servers are not known when its rules are written"
	}
	for i, d := range []Direction{in.Inbound, in.Outbound} {
		if len(d.Include) > 0 && slices.ContainsFunc(d.Exclude, func(port uint16) bool { return port != probes }) {
			in.notes = append(in.notes, "redirect."+[]string{"inbound", "outbound"}[i]+
				".excludePorts has no effect beside includePorts: every port that this lists is captured")
		}
	}
	if quiet {
		in.notes = append(in.notes, "comments.disabled is not followed: the comments tell whose the rules are")
	}
	return in.check()
}

// probes is where the control plane has the kubelet's probes answered, and which it excludes itself.
const probes = 9001

func (d *Direction) keys(users value) value {
	return within(keys{
		"enabled": boolean(&d.Enabled), "port": port(&d.Port), "includePorts": oneOrMore(&d.Include, parsePorts), "excludePorts": oneOrMore(&d.Exclude, parsePorts),
		"excludePortsForIPs": items(&d.RangeExclude, parseRanges), "excludePortsForUIDs": users, "insertRedirectInsteadOfAppend": ignored,
	})
}

// parsePorts reads ports, which may be 0; nothing between two commas is nothing.
func parsePorts(text string) (ports []uint16, problem string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		r, ok := rules.ParsePortRange(item)
		if !ok || r.First != r.Last || strings.Contains(item, "-") {
			return nil, "not a port (0 to 65535)"
		}
		ports = append(ports, r.First)
	}
	return ports, ""
}

// parseRanges reads addresses and CIDRs.
func parseRanges(text string) (ranges []netip.Prefix, problem string) {
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if addr, err := netip.ParseAddr(item); err == nil && addr.Zone() == "" {
			ranges = append(ranges, rules.Host(addr))
			continue
		}
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, "not an address or a CIDR such as 10.0.0.0/8"
		}
		ranges = append(ranges, prefix)
	}
	return ranges, ""
}

// mostNumbers is how many ports one rule can hold; a range counts as two.
const mostNumbers = 15

// parseUsers reads an exclusion for users, and returns one for each of its protocols.
func parseUsers(text string) ([]User, string) {
	parts := strings.Split(text, ":")
	if len(parts) > 3 {
		return nil, "not UID, PORTS:UID or PROTOCOL:PORTS:UID"
	}
	u := User{Ports: []rules.PortRange{{First: 1, Last: 65535}}}
	var problem string
	if u.First, u.Last, problem = parseUIDs(parts[len(parts)-1]); problem != "" {
		return nil, problem
	}
	if len(parts) > 1 {
		if list := parts[len(parts)-2]; list != "" && list != "*" {
			if u.Ports, problem = rules.ParsePorts(list); problem != "" {
				return nil, "one whose " + problem
			}
		}
	}
	numbers := 0
	for _, r := range u.Ports {
		if numbers++; r.First != r.Last {
			numbers++
		}
	}
	if numbers > mostNumbers {
		return nil, fmt.Sprintf("one with more ports than a rule can hold (%d, a range counts twice)", mostNumbers)
	}
	protocols := []string{rules.TCP, rules.UDP}
	if len(parts) == 3 && parts[0] != "" && parts[0] != "*" {
		protocols = strings.Split(parts[0], ",")
	}
	var users []User
	for _, protocol := range protocols {
		protocol = strings.ToLower(strings.TrimSpace(protocol))
		if protocol != rules.TCP && protocol != rules.UDP {
			return nil, "not of tcp or udp"
		}
		u.Protocol = protocol
		users = append(users, u)
	}
	return users, ""
}

func parseUIDs(text string) (first, last uint32, problem string) {
	low, high, ranged := strings.Cut(text, "-")
	first, problem1 := parseUID(low)
	last, problem2 := first, ""
	if ranged {
		last, problem2 = parseUID(high)
	}
	if problem1 != "" || problem2 != "" || first > last {
		return 0, 0, "not one of a user's number, or of a range such as 1001-1005"
	}
	return first, last, ""
}

// parseUID reads a user who may be root.
func parseUID(text string) (uint32, string) {
	if text == "0" {
		return 0, ""
	}
	return rules.ParseID(text)
}

// parseNetwork reads an interface and the network behind it.
func parseNetwork(text string) ([]Network, string) {
	name, network, _ := strings.Cut(text, ":")
	prefix, err := netip.ParsePrefix(network)
	if err != nil || !validInterface(name) {
		return nil, "not an interface and its network such as docker0:172.17.0.0/16"
	}
	return []Network{{Interface: name, Prefix: prefix}}, ""
}

// validInterface is stricter than the kernel: the name becomes part of rules, so it must not be able to mean anything else. A plus
// at its end stands for all names that begin so.
func validInterface(name string) bool {
	other := func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		return !letter && (c < '0' || c > '9') && !strings.ContainsRune("_.-", c)
	}
	bare := strings.TrimSuffix(name, "+")
	return bare != "" && len(name) <= 15 && bare[0] != '-' && !strings.ContainsFunc(bare, other)
}
