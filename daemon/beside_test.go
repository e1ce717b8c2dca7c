// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// What takes packets from a pod's rules keeps its containers back, whoever wrote it, unless the configuration accepts it. What
// stands beside the rules is remembered with what it does, until it is gone.
func TestTablesOfOthers(t *testing.T) {
	nstest.Require(t, "nft", "iptables-legacy-restore")
	const notrack = "chain c {\ntype filter hook output priority -400;\nmeta l4proto tcp notrack\n}\n}\n"
	for name, tt := range map[string]struct {
		program, input string
		accepted       string
		refused        bool
		said           string
	}{
		"harmless": {"nft -f -", "table inet x {\nchain c {\ntype filter hook output priority 0;\ncounter\n}\n}\n", "", false, "table inet x, 1 rules: harmless"},
		"takes":    {"nft -f -", "table inet x {\n" + notrack, "", true, "table inet x, 1 rules, asked before the pod's: takes from the pod's rules: tcp"},
		"accepted": {"nft -f -", "table inet x {\n" + notrack, "inet x", false, "accepted by the node's configuration (accepted_tables)"},
		"another":  {"nft -f -", "table inet x {\n" + notrack, "ip x", true, "takes from the pod's rules: tcp"},
		"legacy":   {"iptables-legacy-restore", "*raw\n-A OUTPUT -p tcp -j CT --notrack\nCOMMIT\n", "", true, "table iptables-legacy raw, 1 rules, asked before"},
		"legacy accepted": {"iptables-legacy-restore", "*raw\n-A OUTPUT -p tcp -j CT --notrack\nCOMMIT\n", "iptables-legacy raw", false,
			"accepted by the node's configuration (accepted_tables)"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limited(t, patience)
			e := on(t, nftables.New(nftables.IPTables), istios)
			if tt.accepted != "" {
				e.with(func(p *policy.Policy) { p.Node.Policies = []rules.CapturePolicy{{Accepted: []string{tt.accepted}}} })
			}
			pod := inKernel(t, sandbox(t, "web"))
			if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
				t.Fatal(o.Error())
			}
			inNS := func(program, input string) {
				cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + pod.NetNS}, strings.Fields(program)...)...)
				cmd.Stdin = strings.NewReader(input)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			inNS(tt.program, tt.input)
			if o := e.Validate(ctx, pod, app); (o.Error() != nil) != tt.refused {
				t.Errorf("the next container: %v", o.Error())
			}
			if o := e.Compare(ctx, "web"); !strings.Contains(strings.Join(judge.Beside(o.Effect), "\n"), tt.said) {
				t.Errorf("compared: %q, %v", judge.Beside(o.Effect), o.Err)
			}
			beside := func() string {
				sb, _ := e.View().Sandbox("web")
				return strings.Join(sb.Beside, "\n")
			}
			if !tt.refused && !strings.Contains(beside(), tt.said) {
				t.Errorf("remembered: %q", beside())
			}
			inNS("nft flush ruleset", "")
			inNS("iptables-legacy-restore", "*raw\nCOMMIT\n")
			if o := e.Enforce(ctx, lifecycle.ContainerCreated, pod); o.Error() != nil || beside() != "" {
				t.Errorf("when it is gone: %v, %q", o.Error(), beside())
			}
		})
	}
}

// A table that is harmless as long as the pod has no such interface is judged again when one comes, although no rule changes.
func TestInterfaceThatATableWaitsFor(t *testing.T) {
	nstest.Require(t, "nft", "ip")
	ctx := limited(t, patience)
	e := on(t, nftables.New(nftables.IPTables), istios)
	ns := nstest.New(t)
	pod := sandbox(t, "web")
	pod.NetNS = ns.Path
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Error())
	}
	ns.RunInput(t, "table inet x {\nchain c {\ntype filter hook output priority -400;\noifname \"net1\" meta l4proto tcp notrack\n}\n}\n", "nft", "-f", "-")
	for range 2 { // what is remembered holds
		if o := e.Validate(ctx, pod, app); o.Error() != nil {
			t.Fatal(o.Error())
		}
	}
	ns.Run(t, "ip", "link", "add", "net1", "type", "veth", "peer", "name", "net2")
	if o := e.Validate(ctx, pod, app); o.Error() == nil {
		t.Error("a container is created, whose packets go around the mesh by net1")
	}
}
