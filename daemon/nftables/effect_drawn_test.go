// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// A connection that goes around a plan's rules, whatever chains of others are there, is never taken for one that they take.
func TestKernelOfDrawnChains(t *testing.T) {
	nstest.Require(t, "nft")
	plan, interfaces := redirected()
	const proxy, draws = "127.0.0.1:9001", 30
	for i := range uint64(draws) {
		s := newSandbox(t) // where no connection of another draw comes late
		s.own(t, client, server)
		var listeners []int
		for _, at := range []string{proxy, server + ":80", "127.0.0.1:9000", server + ":9000"} {
			listeners = append(listeners, s.listen(t, at, 0))
		}
		for _, chains := range (chainDraw{rand.New(rand.NewPCG(5, i))}).all() {
			s.RunInput(t, "table ip t {\n"+chains+"}\n", "nft", "-f", "-")
		}
		got := ""
		sent := s.sendAnd(port80, func(int) error {
			for _, l := range listeners {
				got += accepted(t, l)
			}
			return nil
		})
		if r := s.effect(t, plan, interfaces); r.Answer <= effect.More && got != "" && got != proxy {
			t.Errorf("draw %d: it is %q's, and judged %s: %v, %v\n%s", i, got, r.Answer, sent, r.Differences, s.Run(t, "nft", "list", "ruleset"))
		}
	}
}

// chainDraw draws chains.
type chainDraw struct{ *rand.Rand }

func (d chainDraw) of(all ...string) string { return all[d.IntN(len(all))] }

// all returns chains in the order in which they are to be made, most often with one that does the plan.
func (d chainDraw) all() (all []string) {
	if d.IntN(4) > 0 {
		all = append(all, "chain ours { type nat hook output priority -100; tcp dport 80 redirect to :9001; }\n")
	}
	for n := range 1 + d.IntN(3) {
		all = append(all, d.chain(n))
	}
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// chain returns a base chain, and another one that its rules may lead to.
func (d chainDraw) chain(n int) string {
	kind, hook := d.of("filter", "filter", "nat", "nat", "route"), "output"
	priorities := []string{"-350", "-300", "-201", "-200", "-199", "-150", "-101", "-100", "-99", "0", "50"}
	switch kind {
	case "filter":
		if hook = d.of("output", "output", "prerouting", "input", "postrouting"); hook == "input" || hook == "postrouting" {
			priorities = append(priorities, "99", "100", "101")
		}
		if hook == "prerouting" {
			kind = "arriving filter"
		}
	case "nat": // behind connection tracking
		if hook, priorities = d.of("output", "output", "prerouting", "postrouting", "input"), priorities[4:]; hook == "postrouting" || hook == "input" {
			kind = "source nat"
			priorities = append(priorities, "99", "100", "101")
		}
	}
	list := func(sub string) (text string) {
		for range 1 + d.IntN(3) {
			text += d.rule(kind, sub) + "\n"
		}
		return text
	}
	sub := fmt.Sprintf("sub%d", n)
	return fmt.Sprintf("chain %s {\n%s}\nchain c%d {\ntype %s hook %s priority %s; policy %s;\n%s}\n",
		sub, list(""), n, kind[strings.LastIndexByte(kind, ' ')+1:], hook, d.of(priorities...), d.of("accept", "accept", "accept", "drop"), list(sub))
}

func (d chainDraw) rule(kind, sub string) string {
	var words []string
	for range d.IntN(3) {
		words = append(words, d.of("tcp dport 80", "tcp dport 9000", "tcp dport 9001", "tcp sport 80", "tcp dport != 80", "tcp dport 9000-9001",
			"ip daddr "+server, "ip daddr 127.0.0.1", "ip daddr != 127.0.0.0/8", "ip saddr "+client, "meta mark 1", "meta mark != 1", "ct mark 1", "ct mark != 1",
			"ct state new", "ct state invalid", "ct state untracked", "ct state established,related", "ct state != new", "oifname lo", "iifname lo",
			"oifname \"l*\"", "iifname != lo", "meta skuid 0", "meta skuid != 0", "meta skuid 1-9", "meta skgid 0", "meta l4proto tcp", "ip protocol != tcp",
			"tcp dport { 80, 9000 }", "tcp dport != { 80, 9000 }", "ip daddr { 10.0.0.0/8, 127.0.0.1 }", "th dport >= 9000", "th dport < 81", "counter"))
	}
	actions := []string{"accept", "drop", "return", "meta mark set 1", "meta mark set 2", "ct mark set meta mark", "meta mark set ct mark", "ct mark set 1"}
	switch kind {
	case "nat":
		actions = append(actions, "meta l4proto tcp redirect to :9000", "meta l4proto tcp redirect to :9001", "ip protocol tcp dnat to "+server+":9000",
			"ip protocol tcp dnat to 127.0.0.1:9001", "ip protocol tcp dnat to "+server+":80")
	case "source nat":
		actions = append(actions, "snat to "+client, "snat to "+server)
	case "arriving filter":
		actions = append(actions, "notrack", "ct zone set 1", "meta l4proto tcp tproxy to :9", "meta l4proto tcp tproxy to :9000 accept", "meta l4proto tcp tproxy to :9001 drop")
	default:
		actions = append(actions, "notrack", "notrack", "ct zone set 1")
	}
	if sub != "" {
		actions = append(actions, "jump "+sub, "goto "+sub, "meta mark set 1 goto "+sub)
	}
	return strings.Join(append(words, d.of(actions...)), " ")
}
