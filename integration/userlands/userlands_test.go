// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package userlands shows what iptables and nft of other releases read of rules that meshnetd writes.
package userlands

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// userland is iptables and nft of a Debian.
type userland struct{ tree string }

var suites = []string{"bullseye", "bookworm", "trixie", "sid"}

func fetch(t *testing.T, suite string) userland {
	t.Helper()
	nstest.RequireRoot(t)
	cmd := exec.Command("../debian/tree.sh", suite, "bash", "coreutils", "iptables", "nftables")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("iptables and nftables of %s: %v", suite, err)
	}
	return userland{strings.TrimSpace(string(out))}
}

// run runs a line of shell with the userland in the namespace.
func (u userland) run(t *testing.T, ns *nstest.Namespace, line string) string {
	t.Helper()
	return ns.Run(t, "chroot", u.tree, "/bin/bash", "-ec", "PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+line)
}

// version returns the versions of both programs.
func (u userland) version(t *testing.T) string {
	t.Helper()
	text := u.run(t, nstest.New(t), "iptables-nft --version; nft --version")
	found := regexp.MustCompile(`v(\d+\.\d+\.\d+)`).FindAllStringSubmatch(text, -1)
	if len(found) != 2 {
		t.Fatalf("versions: %s", text)
	}
	return fmt.Sprintf("iptables %s, nft %s", found[0][1], found[1][1])
}

var stamps = regexp.MustCompile(`(?m)^#.*\n| \[\d+:\d+\]$`)

// saved is what iptables-save prints of both families, without what differs by time. Tables and chains are sorted.
func (u userland) saved(t *testing.T, ns *nstest.Namespace) []string {
	t.Helper()
	var all []string
	for _, program := range []string{"iptables", "ip6tables"} {
		text := stamps.ReplaceAllString(u.run(t, ns, program+"-nft-save"), "")
		for table := range strings.SplitSeq(text, "COMMIT\n") {
			lines := strings.Split(program+" "+strings.TrimSpace(table), "\n")
			if len(lines) > 1 {
				slices.SortStableFunc(lines[1:], func(a, b string) int { return strings.Compare(chain(a), chain(b)) })
				all = append(all, strings.Join(lines, "\n"))
			}
		}
	}
	slices.Sort(all)
	return all
}

func chain(line string) string {
	return strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, ":"), "-A "))[0]
}

// sandbox is a namespace that holds a plan's rules.
type sandbox struct {
	*nstest.Namespace
	open *netns.Namespace
	plan rules.Plan
}

func write(t *testing.T, dialect nftables.Dialect, plan rules.Plan) sandbox {
	t.Helper()
	ns := nstest.New(t)
	opened, err := netns.Open(ns.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	if _, err := nftables.New(dialect).Apply(t.Context(), opened, plan); err != nil {
		t.Fatal(err)
	}
	return sandbox{ns, opened, plan}
}

// effect compares what becomes of a pod's packets with what the plan says.
func (s sandbox) effect(t *testing.T) effect.Answer {
	t.Helper()
	interfaces := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}}}
	have := rules.Plan{Routes: s.plan.Routes, Loopback: s.plan.Loopback} // which no userland here touches
	r, err := nftables.Tables{}.Effect(t.Context(), s.open, s.plan, have, interfaces)
	if err != nil {
		t.Fatal(err)
	}
	return r.Answer
}

// unseen is what iptables 1.8.7 does not see in rules of later ones, nor in ours: it shows and saves them without.
var unseen = regexp.MustCompile(` -m (?:tcp|udp|mark)(?: ! | )--(?:[ds]port|mark) \S+`)

// All releases show the lines that the newest shows, and what they save and restore does what it did.
func TestUserlands(t *testing.T) {
	newest := fetch(t, suites[len(suites)-1])
	for _, suite := range suites {
		u := fetch(t, suite)
		t.Run(u.version(t), func(t *testing.T) {
			blind := suite == "bullseye"
			for _, c := range plans.Recorded(t) {
				t.Run(c.Name, func(t *testing.T) {
					plan := plans.Of(t, istio.Standard(), c.Pod())
					s := write(t, nftables.IPTables, plan)
					want, answer := newest.saved(t, s.Namespace), effect.Equal
					for i, lines := range want {
						if blind && unseen.MatchString(lines) {
							want[i], answer = unseen.ReplaceAllString(lines, ""), effect.Less
						}
					}
					if diff := cmp.Diff(want, u.saved(t, s.Namespace)); diff != "" {
						t.Errorf("iptables-save (-newest +this):\n%s", diff)
					}
					u.run(t, s.Namespace, "for p in iptables ip6tables; do saved=$($p-nft-save); $p-nft-restore <<<\"$saved\"; done")
					if got := s.effect(t); got != answer {
						t.Errorf("after iptables-save and -restore: %s, want %s", got, answer)
					}
					s = write(t, nftables.Native, plan)
					u.run(t, s.Namespace, "saved=$(nft -s list ruleset); nft flush ruleset; nft -- \"$saved\"")
					if got := s.effect(t); got != effect.Equal {
						t.Errorf("after nft list ruleset and nft: %s\n%s", got, u.run(t, s.Namespace, "nft list ruleset"))
					}
				})
			}
		})
	}
}
