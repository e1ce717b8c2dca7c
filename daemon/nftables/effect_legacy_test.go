// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	_ "embed"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// dockerPort is what a dockerd on iptables-legacy writes in a pod, with a port that a container publishes.
//
//go:embed testdata/docker-port.rules
var dockerPort string

// docker is that without the port.
var docker = regexp.MustCompile(`(?m)^.*--dport.*\n`).ReplaceAllString(dockerPort, "")

// Tables of iptables-legacy are judged by what they do beside a plan's rules, and only those that may take something from
// it are differences.
func TestEffectOfLegacy(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	plan := plans.DualStack(t)
	one := func(rules string) string { return "*" + strings.Replace(rules, " ", "\n", 1) + "\nCOMMIT\n" }
	for name, tt := range map[string]struct {
		input string
		want  effect.Answer
	}{
		"docker":                                     {docker, effect.More},           // of what is forwarded
		"docker and a port":                          {dockerPort, effect.CannotTell}, // which table is asked first is not told
		"nat that accepts":                           {one("nat -A OUTPUT -p tcp -j ACCEPT"), effect.Equal},
		"nat that redirects":                         {one("nat -A OUTPUT -p tcp -j REDIRECT --to-ports 9999"), effect.CannotTell},
		"no interface of the pod's":                  {one("nat -A OUTPUT -o wlan+ -p tcp -j REDIRECT --to-ports 9999"), effect.Equal},
		"interfaces by their beginning":              {one("raw -A OUTPUT -o et+ -p tcp -j CT --notrack"), effect.Less},
		"every interface but one":                    {one("raw -A OUTPUT ! -o eth0 -p tcp -j CT --notrack"), effect.Less}, // by lo
		"untracked":                                  {one("raw -A PREROUTING -p tcp -j CT --notrack"), effect.Less},
		"untracked, some ports":                      {one("raw -A PREROUTING -p tcp -m tcp --dport 8000:9000 -j CT --notrack"), effect.Less},
		"untracked, not those of the proxy":          {one("raw -A PREROUTING -p tcp -m tcp ! --dport 0:65535 -j CT --notrack"), effect.Equal},
		"untracked, where flags are set":             {one("raw -A PREROUTING -p tcp -m tcp --tcp-flags SYN SYN -j CT --notrack"), effect.CannotTell},
		"untracked, to elsewhere":                    {one("raw -A PREROUTING -m addrtype ! --dst-type LOCAL -p tcp -j CT --notrack"), effect.Less},
		"untracked, to nowhere":                      {one("raw -A PREROUTING -m addrtype ! --dst-type LOCAL -d 127.0.0.1 -p tcp -j CT --notrack"), effect.Equal},
		"untracked, by an unknown":                   {one("raw -A PREROUTING -m statistic --mode random --probability 0.5 -p tcp -j CT --notrack"), effect.CannotTell},
		"dropped udp":                                {one("raw -A PREROUTING -p udp -m udp --sport 9 -j DROP"), effect.More},
		"a chain that returns":                       {one("raw :A -\n-A PREROUTING -j A\n-A A -p tcp -j RETURN\n-A A -j DROP"), effect.More},
		"a chain that goes on":                       {one("raw :A -\n-A PREROUTING -g A\n-A A -p udp -j RETURN\n-A A -p tcp -j CT --notrack"), effect.Less},
		"a goto does not come back":                  {one("raw :A -\n-A PREROUTING -p tcp -g A\n-A A -p udp -j DROP\n-A PREROUTING -p tcp -j CT --notrack"), effect.Equal},
		"a chain that nobody asks":                   {one("raw :A -\n-A A -p tcp -j CT --notrack"), effect.Equal},
		"a policy of drop":                           {one("mangle :OUTPUT DROP"), effect.More},
		"no target":                                  {one("mangle -A OUTPUT -p tcp"), effect.Equal},
		"a queue":                                    {one("mangle -A OUTPUT -p tcp -j QUEUE"), effect.CannotTell},
		"addresses":                                  {one("raw -A OUTPUT ! -d 10.0.0.0/8 -s 10.0.0.7 -p tcp -j CT --notrack"), effect.Less},
		"a mask with holes":                          {one("raw -A OUTPUT -d 10.0.0.0/255.0.255.0 -p tcp -j CT --notrack"), effect.CannotTell},
		"a protocol that is not the plan's":          {one("raw -A OUTPUT ! -p tcp -d 10.0.0.0/8 -j DROP"), effect.More},
		"from nowhere":                               {one("mangle -A OUTPUT ! -s 0.0.0.0/0 -j DROP"), effect.Equal},
		"by no interface":                            {one("mangle -A OUTPUT ! -o + -j DROP"), effect.Equal},
		"ports of a protocol that is not the plan's": {one("mangle -A OUTPUT -p sctp -m multiport --dports 1:65535 -j DROP"), effect.More},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.Peer(t, "10.0.0.0/24")
			var interfaces []rules.Interface
			err := s.ns.Do(func() (err error) { interfaces, err = routing.Interfaces(); return err })
			if err != nil {
				t.Fatal(err)
			}
			s.write(t, plan)
			s.RunInput(t, tt.input, "iptables-legacy-restore")
			if r := s.effect(t, plan, interfaces); r.Answer != tt.want {
				t.Errorf("got %s, want %s: %v", r.Answer, tt.want, r.Differences)
			}
			diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan)
			if err != nil || len(diffs) > 0 != (tt.want > effect.More) {
				t.Errorf("got differences %v, %v", diffs, err)
			}
		})
	}
}

// What iptables-legacy wrote of a plan does what the plan says, and with a rule less what the plan without it does.
func TestEffectOfLegacyPlans(t *testing.T) {
	nstest.Require(t, "iptables-legacy", "ip6tables-legacy")
	random := rand.New(rand.NewPCG(7, 9))
	for range 6 {
		drawn := generate.Draw(random)
		less, removed := withoutOne(random, drawn.Plan)
		pod := effect.NewPod(drawn.Interfaces)
		for _, plan := range []rules.Plan{drawn.Plan, less} {
			s := newSandbox(t)
			var want effect.Answer
			for i, set := range plan.Rulesets() {
				s.RunInput(t, rules.Change(rules.Ruleset{Family: set.Family}, set, plan.Footprint), []string{"iptables", "ip6tables"}[i]+"-legacy-restore")
				want = max(want, effect.Compare(pod, effect.OfPlan(pod, drawn.Plan, set.Family), effect.OfPlan(pod, plan, set.Family)).Answer)
			}
			if r := s.effect(t, drawn.Plan, drawn.Interfaces); r.Answer != want {
				t.Errorf("without %q: got %s, want %s: %v\n%s", removed, r.Answer, want, r.Differences, s.Run(t, "iptables-legacy-save"))
			}
		}
	}
}

// In the kernel, of two tables nat the one that was made last is asked first, but the native one in any case; and one that
// translates nothing leaves packets to the other, whatever it accepts.
func TestPacketsOfTwoTablesNat(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	published := strings.ReplaceAll(strings.ReplaceAll(dockerPort, "172.17.0.2:80", "127.0.0.1:9999"), "--dport 8080", "--dport 80")
	const redirects = "-A OUTPUT -p tcp -j REDIRECT --to-ports 9999\nCOMMIT\n"
	for name, tt := range map[string]struct {
		before, after string
		takes         string // where the connection ends by rules in iptables' tables
		native        string // and by native ones
	}{
		"docker":             {"", docker, "127.0.0.1:15001", "127.0.0.1:15001"},
		"docker and a port":  {"", published, "127.0.0.1:9999", "127.0.0.1:15001"},
		"one that accepts":   {"", "*nat\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n", "127.0.0.1:15001", "127.0.0.1:15001"},
		"an older one":       {"*nat\n" + redirects, "", "127.0.0.1:15001", "127.0.0.1:15001"},
		"a newer one":        {"", "*nat\n" + redirects, "127.0.0.1:9999", "127.0.0.1:15001"},
		"rules made anew":    {"*nat\nCOMMIT\n", "*nat\n" + redirects, "127.0.0.1:15001", "127.0.0.1:15001"}, // in an older table
		"notrack, any table": {"*raw\n-A OUTPUT -p tcp -j CT --notrack\nCOMMIT\n", "", server + ":80", server + ":80"},
	} {
		for dialect, want := range map[Dialect]string{IPTables: tt.takes, Native: tt.native} {
			t.Run(name+", "+string(dialect), func(t *testing.T) {
				s := newSandbox(t)
				s.own(t, client, server)
				var listeners []int
				for _, at := range []string{"127.0.0.1:15001", "127.0.0.1:9999", server + ":80"} {
					listeners = append(listeners, s.listen(t, at, 0))
				}
				s.RunInput(t, tt.before, "iptables-legacy-restore")
				var b rules.Builder
				b.Append("nat", "OUTPUT", "", rules.Redirect{Port: 15001}, rules.Protocol(rules.TCP), rules.DestinationPort(rules.TCP, 80))
				if _, err := New(dialect).Apply(t.Context(), s.ns, rules.Plan{V4: b.Ruleset(rules.IPv4)}); err != nil {
					t.Fatal(err)
				}
				s.RunInput(t, tt.after, "iptables-legacy-restore")
				var takes string
				err := s.sendAnd(port80, func(int) error {
					for _, l := range listeners {
						takes += accepted(t, l)
					}
					return nil
				})
				if err != nil || takes != want {
					t.Errorf("ends at %q, want %q; %v", takes, want, err)
				}
			})
		}
	}
}

// A rule of ip6tables-legacy for all protocols holds for each of them.
func TestEffectOfLegacyProtocols(t *testing.T) {
	nstest.Require(t, "ip6tables-legacy")
	plan := plans.DualStack(t)
	for protocol, want := range map[string]effect.Answer{"all": effect.Less, "tcp": effect.Less, "udp": effect.CannotTell} {
		s := newSandbox(t)
		s.write(t, plan)
		s.RunInput(t, "*raw\n-A OUTPUT -p "+protocol+" -j CT --notrack\nCOMMIT\n", "ip6tables-legacy-restore")
		if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); r.Answer != want {
			t.Errorf("%s: got %s, want %s: %v", protocol, r.Answer, want, r.Differences)
		}
	}
}
