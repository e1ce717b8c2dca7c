// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// Whoever reads what is wrong finds the line and the words.
func TestBadExpectations(t *testing.T) {
	for line, want := range map[string]string{
		`"tcp out 443" = "proxi"`:                               `"proxi" is no end of a packet: want one of proxy, delivered, leaves, refused, dropped, blocked`,
		`"tcp out 443" = ""`:                                    `"" is no end`,
		`"tcp out 443" = "leaves 5"`:                            `only proxy has a port`,
		`"tcp out 443" = "proxy x"`:                             `"x" is no port from 0 to 65535`,
		`"tcp out 443" = 5`:                                     `incompatible types`,
		`" " = "proxy"`:                                         `no packet: want a protocol and where it goes`,
		`"tcp" = "proxy"`:                                       `it names no port`,
		`"tcp 443" = "proxy"`:                                   `it says neither in nor out`,
		`"tcp in out 443" = "proxy"`:                            `it cannot go in and out`,
		`"tcp out 443 80" = "proxy"`:                            `"80" is not understood here`,
		`"tcp out 70000" = "proxy"`:                             `"70000" is no port`,
		`"tcp out 443 ipv4 ipv6" = "proxy"`:                     `"ipv6" is not understood here`,
		`"tcp to 10.0.0.5" = "proxy"`:                           `has no port: write 10.0.0.5:443`,
		`"tcp 443 to 10.0.0.5:443" = "proxy"`:                   `its port stands behind the address`,
		`"tcp to 10.0.0.5:443 ipv6" = "proxy"`:                  `its address says which family`,
		`"tcp to 10.0.0.5:443 to 10.0.0.6:1" = "proxy"`:         `"to" stands before one value, once`,
		`"tcp to" = "proxy"`:                                    `"to" stands before one value, once`,
		`"tcp to web:443" = "proxy"`:                            `names are not looked up`,
		`"tcp out 443 as root" = "proxy"`:                       `"as" is not understood here`,
		`"tcp out 443 as uid root" = "proxy"`:                   `uid "root" is not a number`,
		`"tcp in 443 as uid 1" = "proxy"`:                       `they do not go with in`,
		`"tcp in 443 by lo" = "proxy"`:                          `what comes by lo was sent in the pod`,
		`"tcp out 443 from fd00::1 ipv4" = "proxy"`:             `are of two families`,
		`"tls out 443" = "proxy"`:                               `protocol "tls" is none of tcp, udp, icmp, sctp and gre`,
		`"icmp out 5" = "proxy"`:                                `icmp goes to an address, or anywhere, and has no port`,
		`"sctp to 10.0.0.5:5" = "proxy"`:                        `sctp goes to an address`,
		`"icmp to web" = "proxy"`:                               `icmp goes to an address`,
		"\"udp 5 out\" = \"proxy\"\n\"udp out 5\" = \"x\"":      `"x" is no end`,
		"\"udp 5 out\" = \"proxy\"\n\"udp out 5\" = \"leaves\"": `is the packet of line 2 in other words`,
		"[other]": `unknown key: the file is one table [expect]`,
		"x":       "not TOML",
	} {
		_, err := ParseExpectations("a.toml", "[expect]\n"+line+"\n")
		var problems config.Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(err.Error(), want) || problems[0].Line != 2+strings.Count(line, "\n") {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	for text, want := range map[string]string{"": "a.toml:1: expect: there is nothing in this table", "expect = 1": "a.toml:1: expect: there is nothing"} {
		if _, err := ParseExpectations("a.toml", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Which packets a sentence is about depends on the addresses of the pod.
func TestPacketsOfExpectations(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")
	both := Assumed([]netip.Addr{four, six})
	for _, tt := range []struct {
		text       string
		interfaces []rules.Interface
		want       string
	}{
		{"tcp out 443", both, "tcp 10.0.0.7:40000 to 203.0.113.10:443 of uid 1000 gid 1000, tcp [fd00::7]:40000 to [2001:db8::10]:443 of uid 1000 gid 1000"},
		{"443 out", both, ""},
		{"udp 443 out as gid 9 uid 8", Assumed([]netip.Addr{four}), "udp 10.0.0.7:40000 to 203.0.113.10:443 of uid 8 gid 9"},
		{"tcp ipv6 in 22", both, "tcp [2001:db8::99]:40000 to [fd00::7]:22 in by eth0"},
		{"tcp in 22 by net1 from fd00::9", both, "tcp [fd00::9]:40000 to [fd00::7]:22 in by net1"},
		{"tcp in 22", Assumed([]netip.Addr{six}), "tcp [2001:db8::99]:40000 to [fd00::7]:22 in by eth0"},
		{"tcp in 22", nil, "tcp 192.0.2.99:40000 to 192.0.2.2:22 in by eth0, tcp [2001:db8::99]:40000 to [2001:db8::2]:22 in by eth0"},
		{"tcp to 10.0.0.5:443 from 10.0.0.7:77", both, "tcp 10.0.0.7:77 to 10.0.0.5:443 of uid 1000 gid 1000"},
		{"icmp in", both, "icmp 192.0.2.99:40000 to 10.0.0.7:0 in by eth0, ipv6-icmp [2001:db8::99]:40000 to [fd00::7]:0 in by eth0"},
		{"gre to fd00::5", both, "gre [fd00::7]:40000 to [fd00::5]:0 of uid 1000 gid 1000"},
		{"tcp in to 10.9.9.9:22", both, "tcp 192.0.2.99:40000 to 10.9.9.9:22 in by eth0"},
	} {
		all, err := ParseExpectations("a.toml", "[expect]\n\""+tt.text+"\" = \"proxy\"\n")
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s: %v", tt.text, err)
		}
		var packets []string
		for _, e := range all {
			for _, tested := range e.Test(Scene{Plan: plans.DualStack(t), Interfaces: tt.interfaces}) {
				packets = append(packets, tested.Packet)
			}
		}
		if got := strings.Join(packets, ", "); got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.text, got, tt.want)
		}
	}
}

// Whatever is written: each problem has a line of the file, or each expectation can be tested and has one.
func FuzzExpectations(f *testing.F) {
	for _, seed := range []string{"tcp to 10.0.0.5:443 as uid 1000\" = \"proxy 15001", "udp 443 out ipv6\" = \"blocked", "tcp in 8080 from [::1]:5 by net1\" = \"delivered",
		"a\" = 1\n[other]\n\"b", "tcp in to 10.0.0.1:1\" = \"proxy\"\n\"tcp to 10.0.0.1:1 in\" = \"proxy", "\\\" \u202e\" = '''\n'''\n\"x"} {
		f.Add("[expect]\n\"" + seed + "\"\n")
	}
	plan := plans.DualStack(f)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ParseExpectations("a.toml", text)
		var problems config.Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("refused as %v", err)
		}
		lines := strings.Count(text, "\n") + 1
		for _, p := range problems {
			if p.Line < 1 || p.Line > lines || p.What == "" {
				t.Errorf("%+v of %d lines", p, lines)
			}
		}
		if err != nil {
			return
		}
		for _, e := range all {
			for _, tested := range e.Test(Scene{Plan: plan}) {
				if tested.Verdict == "" || tested.Verdict != Unknown && tested.End == nil || tested.Place == "a.toml:0" {
					t.Errorf("%+v", tested)
				}
			}
		}
		if len(all) == 0 {
			t.Error("nothing is expected, and nothing is wrong")
		}
		if err := PrintTested(new(strings.Builder), nil); err != nil {
			t.Error(err)
		}
	})
}
