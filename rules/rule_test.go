// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b rules.PortList) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// ruleTable holds every Match and Target kind, in the text that iptables-save prints for it. Where a rule
// is not the one that the text is read back as, parsed is.
var ruleTable = []struct {
	name   string
	rule   rules.Rule
	text   string
	parsed *rules.Rule
}{
	{name: "jump", rule: rule(rules.Jump("ISTIO_OUTPUT")), text: "-j ISTIO_OUTPUT"},
	{name: "return", rule: rule(rules.Return), text: "-j RETURN"},
	{name: "accept", rule: rule(rules.Accept), text: "-j ACCEPT"},
	{name: "drop", rule: rule(rules.Drop), text: "-j DROP"},
	{name: "redirect", rule: rule(rules.Redirect{Port: 15001}, rules.Protocol(rules.TCP)), text: "-p tcp -j REDIRECT --to-ports 15001"},
	{name: "tproxy v4", rule: rule(rules.TProxy{Port: 15006, Addr: netip.IPv4Unspecified(), Mark: 1337}, rules.Protocol(rules.TCP)),
		text: "-p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff"},
	{name: "tproxy v6", rule: rule(rules.TProxy{Port: 15006, Addr: netip.IPv6Unspecified(), Mark: 1}, rules.Protocol(rules.TCP)),
		text: "-p tcp -j TPROXY --on-port 15006 --on-ip :: --tproxy-mark 0x1/0xffffffff"},
	{name: "set mark", rule: rule(rules.SetMark(1338)), text: "-j MARK --set-xmark 0x53a/0xffffffff"},
	{name: "set mark 0", rule: rule(rules.SetMark(0)), text: "-j MARK --set-xmark 0x0/0xffffffff"},
	{name: "set connection's mark", rule: rule(rules.SetConnMark(7)), text: "-j CONNMARK --set-xmark 0x7/0xffffffff"},
	{name: "save mark", rule: rule(rules.SaveMark{}), text: "-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"},
	{name: "restore mark", rule: rule(rules.RestoreMark{}), text: "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"},
	{name: "zone", rule: rule(rules.CTZone(2)), text: "-j CT --zone 2"},
	{name: "reset", rule: rule(rules.RejectReset, rules.Protocol(rules.TCP)), text: "-p tcp -j REJECT --reject-with tcp-reset"},
	{name: "unreachable of IPv4", rule: rule(rules.RejectPort4, rules.Protocol(rules.UDP)), text: "-p udp -j REJECT --reject-with icmp-port-unreachable"},
	{name: "count", rule: rule(rules.Count, rules.Protocol(rules.ICMP)), text: "-p icmp"},
	{name: "count all", rule: rule(rules.Count), text: ""},
	{name: "icmp of IPv6", rule: rule(rules.Return, rules.Protocol(rules.ICMPv6), rules.InState(rules.StateUntracked)), text: "-p ipv6-icmp -m conntrack --ctstate UNTRACKED -j RETURN"},
	{name: "unreachable", rule: rule(rules.RejectPort, rules.Protocol(rules.UDP)), text: "-p udp -j REJECT --reject-with icmp6-port-unreachable"},

	{name: "tcp", rule: rule(rules.Return, rules.Protocol(rules.TCP)), text: "-p tcp -j RETURN"},
	{name: "udp", rule: rule(rules.Return, rules.Protocol(rules.UDP)), text: "-p udp -j RETURN"},
	{name: "source", rule: rule(rules.Return, rules.Source(prefix("127.0.0.6/32"))), text: "-s 127.0.0.6/32 -j RETURN"},
	{name: "source v6", rule: rule(rules.Return, rules.Source(prefix("::6/128"))), text: "-s ::6/128 -j RETURN"},
	{name: "destination", rule: rule(rules.Return, rules.Destination(prefix("10.0.0.0/8"))), text: "-d 10.0.0.0/8 -j RETURN"},
	{name: "not destination", rule: rule(rules.Return, rules.Not(rules.Destination(prefix("127.0.0.1/32")))),
		text: "! -d 127.0.0.1/32 -j RETURN"},
	{name: "in", rule: rule(rules.Return, rules.InInterface("eth0")), text: "-i eth0 -j RETURN"},
	{name: "out", rule: rule(rules.Return, rules.OutInterface("lo")), text: "-o lo -j RETURN"},
	{name: "sport", rule: rule(rules.Return, rules.Protocol(rules.UDP), rules.SourcePort(rules.UDP, 53)),
		text: "-p udp -m udp --sport 53 -j RETURN"},
	{name: "dport", rule: rule(rules.Return, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 65535)),
		text: "-p tcp -m tcp --dport 65535 -j RETURN"},
	{name: "not dport", rule: rule(rules.Return, rules.Protocol(rules.TCP), rules.Not(rules.DestinationPort(rules.TCP, 0))),
		text: "-p tcp -m tcp ! --dport 0 -j RETURN"},
	{name: "not dports", rule: rule(rules.Return, rules.Protocol(rules.TCP), rules.ToNone(53, 15008)),
		text: "-p tcp -m multiport ! --dports 53,15008 -j RETURN"},
	{name: "dports", rule: rule(rules.Return, rules.Protocol(rules.TCP), rules.ToAny(rules.PortRange{First: 4191, Last: 4191}, rules.PortRange{First: 8000, Last: 8010}, rules.PortRange{First: 0, Last: 65535})),
		text: "-p tcp -m multiport --dports 4191,8000:8010,0:65535 -j RETURN"},
	{name: "uids", rule: rule(rules.Return, rules.OwnerUIDs(1001, 1005)), text: "-m owner --uid-owner 1001-1005 -j RETURN"},
	{name: "comment", rule: rule(rules.Return, rules.Comment("proxy-init/ignore-port-1,2:3.4_")), text: `-m comment --comment "proxy-init/ignore-port-1,2:3.4_" -j RETURN`},
	{name: "comment without quotes", rule: rule(rules.Return, rules.Comment("plain_word-1")), text: `-m comment --comment plain_word-1 -j RETURN`},
	{name: "dnat", rule: rule(rules.DNAT{To: netip.MustParseAddr("127.0.0.1"), Port: 8600}, rules.Protocol(rules.UDP)), text: "-p udp -j DNAT --to-destination 127.0.0.1:8600"},
	{name: "dnat v6", rule: rule(rules.DNAT{To: netip.MustParseAddr("::1"), Port: 8600}, rules.Protocol(rules.UDP)), text: "-p udp -j DNAT --to-destination [::1]:8600"},
	{name: "dnat of the address only", rule: rule(rules.DNAT{To: netip.MustParseAddr("fd00::10")}), text: "-j DNAT --to-destination fd00::10"},
	{name: "uid", rule: rule(rules.Return, rules.OwnerUID(1337)), text: "-m owner --uid-owner 1337 -j RETURN"},
	{name: "not uid", rule: rule(rules.Return, rules.Not(rules.OwnerUID(1337))), text: "-m owner ! --uid-owner 1337 -j RETURN"},
	{name: "gid", rule: rule(rules.Return, rules.OwnerGID(0)), text: "-m owner --gid-owner 0 -j RETURN"},
	{name: "not gids", rule: rule(rules.Return, rules.Not(rules.OwnerGID(1)), rules.Not(rules.OwnerGID(2))),
		text: "-m owner ! --gid-owner 1 -m owner ! --gid-owner 2 -j RETURN"},
	{name: "state", rule: rule(rules.Drop, rules.InState(rules.StateInvalid)), text: "-m conntrack --ctstate INVALID -j DROP"},
	{name: "states in the kernel's order", rule: rule(rules.Return, rules.InState(rules.StateEstablished|rules.StateRelated|rules.StateNew|rules.StateUntracked)),
		text: "-m conntrack --ctstate NEW,RELATED,ESTABLISHED,UNTRACKED -j RETURN"},
	{name: "mark", rule: rule(rules.Return, rules.PacketMark(1337)), text: "-m mark --mark 0x539 -j RETURN"},
	{name: "not mark", rule: rule(rules.Return, rules.Not(rules.PacketMark(1338))), text: "-m mark ! --mark 0x53a -j RETURN"},
	{name: "connmark", rule: rule(rules.Return, rules.ConnMark(1337)), text: "-m connmark --mark 0x539 -j RETURN"},

	{name: "host bits are masked", rule: rule(rules.Return, rules.Destination(prefix("10.1.2.3/8"))), text: "-d 10.0.0.0/8 -j RETURN",
		parsed: ptr(rule(rules.Return, rules.Destination(prefix("10.0.0.0/8"))))},
	{name: "a prefix of no bits is no condition", rule: rule(rules.Return, rules.Destination(prefix("0.0.0.0/0")), rules.Source(prefix("::/0"))),
		text: "-j RETURN", parsed: ptr(rule(rules.Return))},
	{name: "nothing but a prefix of no bits negated", rule: rule(rules.Return, rules.Not(rules.Destination(prefix("0.0.0.0/0")))),
		text: "! -d 0.0.0.0/0 -j RETURN"},
	{name: "conditions in the kernel's order",
		rule: rule(rules.Jump("X"), rules.OwnerUID(1), rules.Protocol(rules.TCP), rules.OutInterface("lo"), rules.InInterface("eth0"),
			rules.Destination(prefix("10.0.0.2/32")), rules.Source(prefix("10.0.0.1/32")), rules.PacketMark(2)),
		text: "-s 10.0.0.1/32 -d 10.0.0.2/32 -i eth0 -o lo -p tcp -m owner --uid-owner 1 -m mark --mark 0x2 -j X",
		parsed: ptr(rule(rules.Jump("X"), rules.Source(prefix("10.0.0.1/32")), rules.Destination(prefix("10.0.0.2/32")),
			rules.InInterface("eth0"), rules.OutInterface("lo"), rules.Protocol(rules.TCP), rules.OwnerUID(1), rules.PacketMark(2)))},
	{name: "packet mark after connection mark", rule: rule(rules.Return, rules.ConnMark(1), rules.PacketMark(2)),
		text: "-m connmark --mark 0x1 -m mark --mark 0x2 -j RETURN"},
}

func rule(t rules.Target, m ...rules.Match) rules.Rule { return rules.Rule{Target: t, Match: m} }

func ptr[T any](v T) *T { return &v }

func TestRuleString(t *testing.T) {
	var all strings.Builder
	for _, tt := range ruleTable {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.rule.String(); got != tt.text {
				t.Errorf("String:\n got %s\nwant %s", got, tt.text)
			}
		})
		all.WriteString(tt.rule.String() + "\n")
	}
	golden.Check(t, "rules.golden", all.String())
}

func TestRuleStringKeepsTheRule(t *testing.T) {
	r := rule(rules.Return, rules.Protocol(rules.TCP), rules.Source(prefix("10.0.0.1/32")))
	_ = r.String()
	if r.Match[0].Field != rules.FieldProtocol {
		t.Error("String reorders the rule's own conditions")
	}
}

func TestParseRule(t *testing.T) {
	for _, tt := range ruleTable {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.rule
			if tt.parsed != nil {
				want = *tt.parsed
			}
			got := rules.ParseRule(tt.text)
			if diff := cmp.Diff(want, got, compare); diff != "" {
				t.Errorf("ParseRule(%q) (-want +got):\n%s", tt.text, diff)
			}
			if got.String() != tt.text {
				t.Errorf("round trip:\n got %s\nwant %s", got, tt.text)
			}
		})
	}
}

// Text that is not meshnetd's must come back letter by letter: it is what verify shows, and what tells a
// rule of somebody else from a wanted one.
func TestParseRuleForeign(t *testing.T) {
	for name, text := range map[string]string{
		"tcp flags":                  `-p tcp --syn -j ACCEPT`,
		"tcp flags, saved":           `-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT`,
		"comment":                    `-m comment --comment "x y" -j RETURN`,
		"comment with our target":    `-p tcp -m comment --comment "to -j ISTIO_INBOUND" -j ISTIO_INBOUND`,
		"comment with two blanks":    `-m comment --comment "x  y" -j RETURN`,
		"comment of other letters":   `-m comment --comment "x;y" -j RETURN`,
		"comment in needless quotes": `-m comment --comment "xy" -j RETURN`,
		"comment without its quotes": `-m comment --comment x/y -j RETURN`,
		"comment too long":           `-m comment --comment ` + strings.Repeat("x", 256) + ` -j RETURN`,
		"empty comment":              `-m comment --comment "" -j RETURN`,
		"escaped comment":            `-m comment --comment "x\"/y" -j RETURN`,
		"not comment":                `-m comment ! --comment x -j RETURN`,
		"dnat to a range":            `-j DNAT --to-destination 1.2.3.4-1.2.3.5`,
		"dnat to ports":              `-j DNAT --to-destination 1.2.3.4:80-90`,
		"dnat and more":              `-j DNAT --to-destination 1.2.3.4 --random`,
		"dnat to nothing":            `-j DNAT`,
		"dnat to port 0":             `-j DNAT --to-destination 1.2.3.4:0`,
		"owner range of one":         `-m owner --uid-owner 99-99 -j RETURN`,
		"owner range backwards":      `-m owner --uid-owner 99-0 -j RETURN`,
		"not owner range":            `-m owner ! --uid-owner 0-99 -j RETURN`,
		"group range":                `-m owner --gid-owner 0-99 -j RETURN`,
		"owner by name":              `-m owner --gid-owner wheel -j RETURN`,
		"owner socket":               `-m owner --socket-exists -j RETURN`,
		"masked mark":                `-m mark --mark 0x1/0x1 -j RETURN`,
		"masked connmark":            `-m connmark --mark 0x1/0xff -j RETURN`,
		"not connmark":               `-m connmark ! --mark 0x1 -j RETURN`,
		"not protocol":               `! -p tcp -j RETURN`,
		"other protocol":             `-p sctp -j RETURN`,
		"not source":                 `! -s 10.0.0.0/8 -j RETURN`,
		"not in":                     `! -i eth0 -j RETURN`,
		"not out":                    `! -o eth0 -j RETURN`,
		"not sport":                  `-p tcp -m tcp ! --sport 53 -j RETURN`,
		"not state":                  `-m conntrack ! --ctstate NEW -j RETURN`,
		"unknown state":              `-m conntrack --ctstate DNAT -j RETURN`,
		"port range":                 `-p tcp -m tcp --dport 80:90 -j RETURN`,
		"ports backwards":            `-p tcp -m multiport --dports 443:80 -j RETURN`,
		"range of one port":          `-p tcp -m multiport --dports 80:80 -j RETURN`,
		"ports with a dash":          `-p tcp -m multiport --dports 80-90 -j RETURN`,
		"no ports":                   `-p tcp -m multiport --dports  -j RETURN`,
		"multiport range":            `-p tcp -m multiport ! --dports 80:90 -j RETURN`,
		"source ports":               `-p tcp -m multiport --sports 80,443 -j RETURN`,
		"masquerade with options":    `-j MASQUERADE --random-fully`,
		"redirect to a range":        `-p tcp -j REDIRECT --to-ports 80-90`,
		"redirect without port":      `-p tcp -j REDIRECT`,
		"redirect and more":          `-p tcp -j REDIRECT --to-ports 80 --random`,
		"masked set mark":            `-j MARK --set-xmark 0x1/0xff`,
		"masked tproxy":              `-p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1`,
		"tproxy without address":     `-p tcp -j TPROXY --on-port 1 --tproxy-mark 0x1/0xffffffff`,
		"connmark set":               `-j CONNMARK --set-xmark 0x1/0xff`,
		"save mark, masked":          `-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff`,
		"no tracking":                `-j CT --notrack`,
		"reject with icmp":           `-j REJECT --reject-with icmp-host-unreachable`,
		"goto":                       `-g OTHER`,
		"goto our chain":             `-p tcp -g ISTIO_INBOUND`,
		"unknown match":              `-m addrtype --dst-type LOCAL -j RETURN`,
		"log":                        `-j LOG --log-prefix "a b "`,
		"quoted jump":                `-j "OTHER"`,
		"a word after the jump":      `-j OTHER x`,
		"negated target":             `! -j OTHER`,
		"negation of nothing":        `!`,
		"jump to nothing":            `-j`,
		"port too large":             `-p tcp -m tcp --dport 65536 -j RETURN`,
		"uid too large":              `-m owner --uid-owner 4294967296 -j RETURN`,
		"mark too large":             `-m mark --mark 0x100000000 -j RETURN`,
		"prefix too long":            `-d 10.0.0.0/33 -j RETURN`,
		"no address":                 `-d example -j RETURN`,
		"a discontinuous mask":       `-d 10.0.0.0/255.0.255.0 -j RETURN`,
		"counters of a single rule":  `-c 1 2 -j RETURN`,
		"fragment":                   `-f -j RETURN`,
		"multiport of no ports":      `-p tcp -m multiport ! --dports  -j RETURN`,
		"zone of one direction only": `-j CT --zone-orig 1`,
	} {
		t.Run(name, func(t *testing.T) {
			got := rules.ParseRule(text)
			if _, foreign := got.Target.(rules.Foreign); !foreign || len(got.Match) > 0 {
				t.Errorf("ParseRule(%q) = %#v, want a foreign rule", text, got)
			}
			if got.String() != text {
				t.Errorf("printed as %q, want %q", got, text)
			}
		})
	}
}
