// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backend

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// widest is of a node with a lockdown.
func widest() rules.Plan {
	cfg := config.Default()
	cfg.Lockdowns = []rules.Lockdown{{}}
	return explain.Node(cfg).Widest()
}

// writable is widest where a test may write it: a lockdown names the last user there can be, which root of the whole system has.
func writable() rules.Plan {
	cfg := config.Default()
	if nstest.Root() {
		return widest()
	}
	return explain.Node(cfg).Widest()
}

func isolate(t *testing.T) *netns.Isolated {
	t.Helper()
	nstest.Require(t, "iptables-nft", "iptables-legacy")
	isolated, err := netns.Isolate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(isolated.Close)
	return isolated
}

// What is asked for is what writes the rules; auto is the first, and the others are tried where that is to be
// known.
func TestFind(t *testing.T) {
	isolated := isolate(t)
	for want, tt := range map[string]struct {
		chosen, shownBy string
		all             bool
		tried           string
	}{
		Auto:              {"iptables", "iptables-nft-save", false, "iptables nftables"},
		Auto + " all":     {"iptables", "iptables-nft-save", true, "iptables iptables-exec nftables"},
		IPTables:          {"iptables", "iptables-nft-save", false, "iptables nftables"},
		NFTables:          {"nftables", "nft list table inet meshnetd", false, "nftables"},
		Exec:              {"iptables-nft", "iptables-nft-save", false, "iptables-exec nftables"},
		"iptables-nft":    {"iptables-nft", "iptables-nft-save", false, "iptables-nft nftables"},
		"iptables-legacy": {"iptables-legacy", "iptables-legacy-save", false, "iptables-legacy nftables"},
	} {
		t.Run(want, func(t *testing.T) {
			b, err := Find(t.Context(), Want{Name: strings.Fields(want)[0], All: tt.all, Plan: writable()}, isolated)
			if err != nil {
				t.Fatal(err)
			}
			var tried []string
			for _, trial := range b.Trials {
				if tried = append(tried, trial.Backend); trial.Err != nil {
					t.Errorf("%s does not work here: %v", trial.Backend, trial.Err)
				}
			}
			if got := strings.Fields(b.Chosen())[0]; got != tt.chosen || strings.Join(tried, " ") != tt.tried {
				t.Errorf("chosen %s, tried %q", got, tried)
			}
			if err := b.IPv6(); err != nil {
				t.Error(err)
			}
			if err := b.UserNamespaces(); err != nil {
				t.Error(err)
			}
			pod := nstest.New(t)
			ns, err := netns.Open(pod.Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			if _, err := b.Apply(t.Context(), ns, plans.DualStack(t)); err != nil {
				t.Fatal(err)
			}
			if text := pod.Run(t, "sh", "-c", tt.shownBy); !strings.Contains(text, "ISTIO_OUTPUT") {
				t.Errorf("%s shows\n%s", tt.shownBy, text)
			}
		})
	}
}

// Whatever wrote the rules, any other takes them over: nothing of the first is left, and its remains are seen
// until then.
func TestOneAfterTheOther(t *testing.T) {
	isolated := isolate(t)
	names := []string{IPTables, NFTables, "iptables-nft", "iptables-legacy"}
	found := map[string]*Backend{}
	for _, name := range names {
		b, err := Find(t.Context(), Want{Name: name, Plan: writable()}, isolated)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = b
	}
	plan := plans.DualStack(t)
	for _, first := range names {
		for _, then := range names {
			if first == then || first == "iptables-legacy" { // whose rules netlink does not remove
				continue
			}
			t.Run(first+" then "+then, func(t *testing.T) {
				pod := nstest.New(t)
				ns, err := netns.Open(pod.Path, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ns.Close()
				if _, err := found[first].Apply(t.Context(), ns, plan); err != nil {
					t.Fatal(err)
				}
				same := slices.Contains([]string{IPTables, "iptables-nft"}, first) && slices.Contains([]string{IPTables, "iptables-nft"}, then)
				if diffs, err := found[then].Verify(t.Context(), ns, plan); err != nil || (len(diffs) == 0) != same {
					t.Errorf("before: %v, %v", diffs, err)
				}
				if changed, err := found[then].Apply(t.Context(), ns, plan); err != nil || changed == same {
					t.Errorf("changed %t, %v", changed, err)
				}
				if diffs, err := found[then].Verify(t.Context(), ns, plan); err != nil || len(diffs) > 0 {
					t.Errorf("after: %v, %v", diffs, err)
				}
				if _, err := found[then].Apply(t.Context(), ns, plans.Nothing()); err != nil {
					t.Fatal(err)
				}
				if text := pod.Run(t, "sh", "-c", "nft list ruleset; iptables-legacy-save; ip6tables-legacy-save"); strings.Contains(text, "ISTIO") {
					t.Errorf("left behind:\n%s", text)
				}
			})
		}
	}
}

// What has been verified is doubted where a second kind of rules appears beside it.
func TestOtherKindIsSeen(t *testing.T) {
	isolated := isolate(t)
	plan := plans.DualStack(t)
	for want, other := range map[string]string{
		"iptables-nft": "iptables-legacy", IPTables: "iptables-legacy", NFTables: "iptables-legacy", "iptables-legacy": IPTables,
	} {
		t.Run(want, func(t *testing.T) {
			b, err := Find(t.Context(), Want{Name: want, Plan: writable()}, isolated)
			if err != nil {
				t.Fatal(err)
			}
			o, err := Find(t.Context(), Want{Name: other, Plan: writable()}, isolated)
			if err != nil {
				t.Fatal(err)
			}
			ns, err := netns.Open(nstest.New(t).Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			for _, f := range []kernel.Firewall{o.chosen, b.chosen, o.chosen} {
				if _, err := f.Apply(t.Context(), ns, plan); err != nil {
					t.Fatal(err)
				}
			}
			if diffs, err := b.Verify(t.Context(), ns, plan); err != nil || len(diffs) == 0 {
				t.Errorf("got %v, %v", diffs, err)
			}
		})
	}
}

// A backend that cannot be had is named with its reason, and so is one that nobody knows.
func TestNotFound(t *testing.T) {
	isolated := isolate(t)
	t.Setenv("PATH", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for want, reason := range map[string]string{
		"iptables-nft": "iptables-nft", Auto: "iptables: ", NFTables: "nftables: ",
	} {
		if _, err := Find(ctx, Want{Name: want, Plan: writable()}, isolated); err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// A trial that hangs leaves the others their time.
func TestShareOfTheTime(t *testing.T) {
	whole, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	defer cancel()
	end, _ := whole.Deadline()
	first, cancel := share(whole, 3)
	defer cancel()
	if its, some := first.Deadline(); !some || end.Sub(its) < time.Hour+59*time.Minute {
		t.Errorf("the first of three trials has until %s, all until %s", its, end)
	}
	endless, cancel := share(t.Context(), 3)
	defer cancel()
	if _, some := endless.Deadline(); some {
		t.Error("a deadline that nobody asked for")
	}
}

// The plan that is tried has every match and every target that package rules knows, and for each there are modules.
func TestEverythingIsTried(t *testing.T) {
	for _, word := range extensions(widest()) {
		if modulesOf[word] == nil {
			t.Errorf("nobody knows which module has %s", word)
		}
	}
	used := map[string]bool{}
	for _, rs := range widest().Rulesets() {
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					used[reflect.TypeOf(r.Target).Name()] = true
					for _, m := range r.Match {
						used[m.Field.String()], used[reflect.TypeOf(m.Value).Name()] = true, true
					}
				}
			}
		}
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), "../../rules/print.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv == nil || f.Name.Name != "appendTo" {
			continue
		}
		n++
		switch kind := f.Recv.List[0].Type.(*ast.Ident).Name; kind {
		case "Rule", "Foreign", "Counting": // a whole rule, and what is read only
		default:
			if !used[kind] {
				t.Errorf("%s is not tried", kind)
			}
		}
	}
	for f := range rules.Fields {
		if name := rules.Field(f).String(); !used[name] {
			t.Errorf("%s is not tried", name)
		}
	}
	if n < 20 {
		t.Errorf("only %d matches and targets were found", n)
	}
}

// A namespace of the pod's own users gets the native rules, whatever is asked for.
func TestOwnUsersGetNativeRules(t *testing.T) {
	b, err := Find(t.Context(), Want{Name: IPTables, Plan: writable()}, isolate(t))
	if err != nil {
		t.Fatal(err)
	}
	pod, err := netns.Open(nstest.NewUsers(t).Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	plan := plans.DualStack(t)
	if _, err := b.chosen.Apply(t.Context(), pod, plan); err == nil {
		t.Error("iptables' owner match works in a user namespace, so that this test shows nothing")
	}
	if got := b.Name(pod, plan); got != NFTables {
		t.Errorf("%s writes its rules", got)
	}
	if _, err := b.Apply(t.Context(), pod, plan); err != nil {
		t.Fatal(err)
	}
	if diffs, err := b.Verify(t.Context(), pod, plan); err != nil || len(diffs) > 0 {
		t.Errorf("got %v, %v", diffs, err)
	}
	b.native = nil
	if _, err := b.Apply(t.Context(), pod, plan); err == nil || !strings.Contains(err.Error(), "hostUsers: false") {
		t.Errorf("without native rules: got %v", err)
	}
}

// Where docker's published ports in tables of iptables-legacy may be asked before iptables' own, a pod gets the native rules, which
// are asked before both, and nothing is taken from them; where those may take all the same, and where they are gone, it does not.
func TestBesideLegacyNatItIsNative(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	docker, err := os.ReadFile("../nftables/testdata/docker-port.rules")
	if err != nil {
		t.Fatal(err)
	}
	isolated := isolate(t)
	plan := plans.DualStack(t)
	for _, first := range []string{IPTables, "iptables-nft"} {
		b, err := Find(t.Context(), Want{Name: first, Plan: writable()}, isolated)
		if err != nil {
			t.Fatal(err)
		}
		for name, tt := range map[string]struct {
			input  string
			native bool
			holds  bool
		}{
			"docker":               {string(docker), true, true},
			"docker without ports": {regexp.MustCompile(`(?m)^.*--dport.*\n`).ReplaceAllString(string(docker), ""), false, true},
			"one that untracks":    {"*raw\n-A OUTPUT -p tcp -j CT --notrack\nCOMMIT\n", false, false},
			"the mesh's chains":    {"*nat\n:ISTIO_OUTPUT -\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 1\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n", false, false},
		} {
			t.Run(first+", "+name, func(t *testing.T) {
				pod := nstest.New(t)
				pod.Peer(t, "10.0.0.0/24")
				ns, err := netns.Open(pod.Path, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ns.Close()
				interfaces := []rules.Interface{{Name: "lo"}, {Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}}
				expect := func(when string, native, holds, changes bool) {
					t.Helper()
					changed, err := b.Apply(t.Context(), ns, plan)
					if err != nil || changed != changes {
						t.Errorf("%s: changed %t, %v", when, changed, err)
					}
					diffs, err := b.Verify(t.Context(), ns, plan)
					if err != nil || (len(diffs) == 0) != holds {
						t.Errorf("%s: %v, %v", when, diffs, err)
					}
					if r, err := b.Effect(t.Context(), ns, plan, plan, interfaces); err != nil || (r.Answer <= effect.More) != holds {
						t.Errorf("%s: %s %v, %v", when, r.Answer, r.Differences, err)
					}
					if got := b.Name(ns, plan); (got == NFTables) != native {
						t.Errorf("%s: %s writes its rules", when, got)
					}
				}
				expect("before", false, true, true)
				pod.RunInput(t, tt.input, "iptables-legacy-restore")
				if diffs, err := b.Verify(t.Context(), ns, plan); err != nil || tt.native && !strings.Contains(diffs[0].String(), "also in iptables-legacy") {
					t.Errorf("%v, %v", diffs, err)
				}
				expect("beside", tt.native, tt.holds, tt.native)
				pod.RunInput(t, "*nat\nCOMMIT\n*filter\n:FORWARD ACCEPT\nCOMMIT\n*raw\nCOMMIT\n", "iptables-legacy-restore")
				expect("after", false, true, tt.native)
			})
		}
	}
}
