// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/internal/sample"
)

// breakage is something that goes wrong with rules, and what a check then says.
type breakage struct {
	name   string
	mode   string // REDIRECT or TPROXY
	script string // $IPT and $IP6T are the programs
	finds  string // in the line of a check
	unseen bool   // the comparison of rules does not see it
}

// Whatever iptables can do to the rules.
var breakages = []breakage{
	{"jump deleted", "REDIRECT", "$IPT -t nat -D OUTPUT -j ISTIO_OUTPUT", "192.0.2.1:443 of uid 1000 gid 1000: leaves for 192.0.2.1:443 by eth0; the rules say: redirected to port 15001", false},
	{"jump deleted, IPv6", "REDIRECT", "$IP6T -t nat -D OUTPUT -j ISTIO_OUTPUT", "[2001:db8::1]:443 of uid 1000 gid 1000: leaves for", false},
	{"port changed", "REDIRECT", "$IPT -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15002", "redirected to port 15002", false},
	{"rule in front", "REDIRECT", "$IPT -t nat -I OUTPUT -p tcp --dport 443 -j RETURN", "192.0.2.1:443 of uid 1000 gid 1000: leaves", false},
	{"the proxy is captured", "REDIRECT", "$IPT -t nat -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN", "of uid 1337 gid 1000: redirected to port 15001", false},
	{"the proxy's group is captured", "REDIRECT", "$IPT -t nat -D ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN", "of uid 1000 gid 1337: redirected to port 15001", false},
	{"an excluded port is captured", "REDIRECT", "$IPT -t nat -D ISTIO_OUTPUT -p tcp --dport 19091 -j RETURN", ":19091 of uid 1000 gid 1000: redirected to port 15001", false},
	{"an excluded range is captured", "REDIRECT", "$IPT -t nat -D ISTIO_OUTPUT -d 10.8.0.0/16 -j RETURN", "the app, to 10.8.0.0/16", false},
	{"inbound jump deleted", "REDIRECT", "$IPT -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND", "to 10.9.0.1:18080 in by eth0: delivered to 10.9.0.1:18080", false},
	{"an excluded inbound port is captured", "REDIRECT", "$IPT -t nat -D ISTIO_INBOUND -p tcp --dport 18082 -j RETURN", "to 10.9.0.1:18082 in by eth0: redirected to port 15006", false},
	{"lookups by UDP leave", "REDIRECT", "$IPT -t nat -F ISTIO_OUTPUT_DNS", "udp 10.9.0.1", false},
	{"lookups share a zone", "REDIRECT", "$IPT -t raw -F ISTIO_OUTPUT_DNS", "redirected to port 15053, original destination 192.0.2.1:53; the rules say: redirected to port 15053, original destination 192.0.2.1:53 zone 2", false},
	{"all is gone", "REDIRECT", "$IPT -t nat -F; $IPT -t raw -F; $IP6T -t nat -F; $IP6T -t raw -F", "to [fd09::1]:18080 in by eth0: delivered", false},
	{"TPROXY jump deleted", "TPROXY", "$IPT -t mangle -D PREROUTING -p tcp -j ISTIO_INBOUND", "to 10.9.0.1:18080 in by eth0: delivered to 10.9.0.1:18080; the rules say: tproxied", false},
	{"TPROXY to another listener", "TPROXY", "$IPT -t mangle -R ISTIO_TPROXY 1 ! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 1337", "to 10.9.0.1:18080 in by eth0: dropped; the rules say: tproxied", false},
	{"policy route deleted", "TPROXY", "ip rule del fwmark 1337 lookup 133", "through the pod", false},
	{"policy route deleted, IPv6", "TPROXY", "ip -6 rule del fwmark 1337 lookup 133", "through the pod: tcp [2001:db8::1]", false},
}

// What the rules of others do beside those of any backend. Their text is not ours to compare.
var beside = []breakage{
	{"another table redirects earlier", "REDIRECT", `nft add table ip other; nft add chain ip other c '{ type nat hook output priority -150; }'; nft add rule ip other c tcp dport 443 redirect to :9999`,
		"192.0.2.1:443 of uid 1000 gid 1000: redirected to port 9999", true},
	{"another table takes the app's port", "TPROXY", `nft add table inet other; nft add chain inet other c '{ type nat hook prerouting priority -150; }'; nft add rule inet other c tcp dport 18080 redirect to :9999`,
		"to [fd09::1]:18080 in by eth0: redirected to port 9999", true},
	{"another table drops on the way in", "REDIRECT", `nft add table inet other; nft add chain inet other c '{ type filter hook input priority 0; }'; nft add rule inet other c tcp dport 15001 drop`,
		"somebody listens there and does not get it", true},
	{"another table drops on the way out", "REDIRECT", `nft add table inet other; nft add chain inet other c '{ type filter hook output priority 0; }'; nft add rule inet other c meta skuid 1337 drop`,
		"of uid 1337 gid 1000: dropped; the rules say: leaves", true},
	{"another table tracks nothing", "REDIRECT", `nft add table inet other; nft add chain inet other c '{ type filter hook prerouting priority -400; }'; nft add rule inet other c iifname eth0 notrack`,
		"to 10.9.0.1:18080 in by eth0: delivered to 10.9.0.1:18080", true},
}

// The same in nf_tables' own kind of rules.
var native = []breakage{
	{"jump deleted", "REDIRECT", "nft flush chain inet meshnetd nat-OUTPUT", "192.0.2.1:443 of uid 1000 gid 1000: leaves", false},
	{"rule in front", "REDIRECT", "nft insert rule inet meshnetd nat-OUTPUT meta nfproto ipv6 tcp dport 443 return", "[2001:db8::1]:443 of uid 1000 gid 1000: leaves", false},
	{"port changed", "REDIRECT", "nft flush chain inet meshnetd nat-ISTIO_IN_REDIRECT; nft add rule inet meshnetd nat-ISTIO_IN_REDIRECT meta l4proto tcp redirect to :15001",
		"to 10.9.0.1:18080 in by eth0: redirected to port 15001", false},
	{"policy route deleted", "TPROXY", "ip rule del fwmark 1337 lookup 133", "through the pod", false},
}

// Every kind of broken rule is found, and nothing else once it is mended. A short run has some of them with one backend.
func TestTrafficFindsBrokenRules(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		all := append(slices.Clone(beside), breakages...)
		if variant == backend.NFTables { // iptables cannot change those
			all = append(slices.Clone(beside), native...)
		}
		for _, mode := range []string{"REDIRECT", "TPROXY"} {
			c := newChecked(t, variant, mode)
			ofMode := slices.DeleteFunc(slices.Clone(all), func(b breakage) bool { return b.mode != mode })
			for _, b := range sample.Of(t, 4, ofMode) {
				t.Run(b.name, func(t *testing.T) {
					if b.unseen { // one that could not be looked at has left its table
						c.pod.RunInput(t, "table ip other\ndelete table ip other\ntable inet other\ndelete table inet other\n", "nft", "-f", "-")
					}
					c.pod.Run(t, "sh", "-c", "set -e; IPT=iptables"+tools(variant)+" IP6T=ip6tables"+tools(variant)+"; "+b.script)
					c.found(t, b)
					c.repaired(t, b)
				})
			}
		}
	})
}

func (c checked) found(t *testing.T, b breakage) {
	t.Helper()
	var wrong []string
	for _, check := range c.send(t) {
		if check.Verdict == traffic.Wrong {
			wrong = append(wrong, check.String())
		}
	}
	if !slices.ContainsFunc(wrong, func(line string) bool { return strings.Contains(line, b.finds) }) {
		t.Errorf("no %q in\n%s", b.finds, strings.Join(wrong, "\n"))
	}
	o := c.enforce.Verify(labtest.Within(t, time.Minute), c.spec)
	if o.Err != nil || (len(o.Differences) == 0) != b.unseen {
		t.Errorf("the comparison sees %q, %v; want nothing: %v", o.Differences, o.Err, b.unseen)
	}
}

// repaired makes sure that it was the breakage that was found.
func (c checked) repaired(t *testing.T, b breakage) {
	t.Helper()
	if b.unseen {
		c.pod.Run(t, "sh", "-c", "nft delete table ip other 2>/dev/null || nft delete table inet other")
	}
	protect(t, c.enforce, c.spec)
	right(t, c.send(t))
	c.nobodyNoticed(t)
}
