// SPDX-License-Identifier: Apache-2.0

package kuma_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/kuma"
)

var (
	mesh = kuma.New(kuma.Standard())
	both = meshtest.Addresses("10.244.1.7", "fd00:10:244::7")
)

// injected is a pod with a configuration.
func injected(config string) rules.Pod {
	return rules.Pod{Namespace: "shop", Name: "cart", IPs: both, Annotations: map[string]string{
		"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": config}}
}

// What the control plane writes by its chart's defaults.
const usual = `cniMode: true
comments:
  disabled: false
dropInvalidPackets: false
ipFamilyMode: dualstack
iptablesExecutables: {}
kumaDPUser: "5678"
log:
  enabled: false
  level: 7
redirect:
  dns:
    captureAll: true
    enabled: true
    port: 15053
    resolvConfigPath: /etc/resolv.conf
    skipConntrackZoneSplit: false
  inbound:
    enabled: true
    excludePorts:
    - 9001
    excludePortsForIPs: []
    excludePortsForUIDs: null
    includePorts: []
    insertRedirectInsteadOfAppend: false
    port: 15006
  outbound:
    enabled: true
    excludePorts: []
    port: 15001
  vnet:
    networks: []
retry:
  maxRetries: 4
  sleepBetweenRetries: 2s
storeFirewalld: false
verbose: false
wait: 5
waitInterval: 0
`

// What Kuma's plugin wrote for it, as iptables-save shows it, without the comments.
const recorded4 = `*nat
-A PREROUTING -p tcp -j KUMA_MESH_INBOUND
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 5678 -j RETURN
-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053
-A OUTPUT -p tcp -m tcp --dport 53 -m owner ! --uid-owner 5678 -j RETURN
-A OUTPUT -p tcp -j KUMA_MESH_OUTBOUND
-A KUMA_MESH_INBOUND -p tcp -m tcp --dport 9001 -j RETURN
-A KUMA_MESH_INBOUND -p tcp -j KUMA_MESH_INBOUND_REDIRECT
-A KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A KUMA_MESH_OUTBOUND -s 127.0.0.6/32 -o lo -j RETURN
-A KUMA_MESH_OUTBOUND ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 5678 -j KUMA_MESH_INBOUND_REDIRECT
-A KUMA_MESH_OUTBOUND -o lo -p tcp -m owner ! --uid-owner 5678 -j RETURN
-A KUMA_MESH_OUTBOUND -m owner --uid-owner 5678 -j RETURN
-A KUMA_MESH_OUTBOUND -d 127.0.0.1/32 -j RETURN
-A KUMA_MESH_OUTBOUND -j KUMA_MESH_OUTBOUND_REDIRECT
-A KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15001
*raw
-A PREROUTING -p udp -m udp --sport 53 -j CT --zone 1
-A OUTPUT -p udp -m udp --dport 53 -m owner --uid-owner 5678 -j CT --zone 1
-A OUTPUT -p udp -m udp --sport 15053 -m owner --uid-owner 5678 -j CT --zone 2
-A OUTPUT -p udp -m udp --dport 53 -j CT --zone 2
`

var (
	comments  = regexp.MustCompile(` -m comment --comment "kuma/mesh/transparent/proxy/[a-z-]+"`)
	recorded6 = strings.NewReplacer("127.0.0.6/32", "::6/128", "127.0.0.1/32", "::1/128").Replace(recorded4)
)

func lines(rs rules.Ruleset) string { return comments.ReplaceAllString(meshtest.Lines(rs), "") }

func TestRecorded(t *testing.T) {
	plan := meshtest.Plan(t, mesh, injected(usual))
	if diff := cmp.Diff(recorded4, lines(plan.V4)); diff != "" {
		t.Errorf("(-recorded +ours):\n%s", diff)
	}
	if diff := cmp.Diff(recorded6, lines(plan.V6)); diff != "" {
		t.Errorf("IPv6 (-recorded +ours):\n%s", diff)
	}
	if len(plan.Notes) > 0 || len(plan.Loopback) != 1 || plan.Loopback[0].String() != "::6/128" {
		t.Errorf("notes %q, loopback %v", plan.Notes, plan.Loopback)
	}
	for _, rs := range plan.Rulesets() { // by which Kuma, and ours, find them
		for line := range strings.Lines(meshtest.Lines(rs)) {
			if strings.HasPrefix(line, "-A") && !comments.MatchString(line) {
				t.Errorf("no comment: %s", line)
			}
		}
	}
}

// Every rule that asks for the proxy's user asks for the one that the configuration names.
func TestUser(t *testing.T) {
	got := lines(meshtest.Plan(t, mesh, injected(strings.Replace(usual, `"5678"`, "1000", 1))).V4)
	if diff := cmp.Diff(strings.ReplaceAll(recorded4, "5678", "1000"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The lines that a configuration adds, and in the golden file, those that are gone.
func TestConfiguration(t *testing.T) {
	var changes strings.Builder
	set := func(old, new string) string {
		if !strings.Contains(usual, old) {
			t.Fatalf("%q is not in the usual configuration", old)
		}
		return strings.Replace(usual, old, new, 1)
	}
	outbound := func(more string) string { return set("    port: 15001\n", "    port: 15001\n"+more) }
	for _, tt := range []struct {
		name, config string
		want         []string
	}{
		{"nothing", usual, nil},
		{"inbound port", set("15006", "15016"), []string{"-A KUMA_MESH_INBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15016"}},
		{"outbound port", set("15001", "15011"), []string{"-A KUMA_MESH_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15011"}},
		{"gateway", set("  inbound:\n    enabled: true", "  inbound:\n    enabled: false"), []string{"-A KUMA_MESH_INBOUND -p tcp -j RETURN"}},
		{"nothing outbound", set("  outbound:\n    enabled: true", "  outbound:\n    enabled: false"), []string{"-A KUMA_MESH_OUTBOUND -p tcp -j RETURN"}},
		{"included inbound", set("includePorts: []", "includePorts: [80, 443]"), []string{
			"-A KUMA_MESH_INBOUND -p tcp -m tcp --dport 80 -j KUMA_MESH_INBOUND_REDIRECT", "-A KUMA_MESH_INBOUND -p tcp -m tcp --dport 443 -j KUMA_MESH_INBOUND_REDIRECT"}},
		{"included outbound", outbound("    includePorts: [80]\n    excludePortsForUIDs: []\n"), []string{
			"-A KUMA_MESH_OUTBOUND -p tcp -m tcp --dport 80 -j KUMA_MESH_OUTBOUND_REDIRECT"}},
		{"excluded inbound addresses", set("excludePortsForIPs: []", "excludePortsForIPs: ['10.1.2.3/8,fd00::1', 192.0.2.1]"), []string{
			"-A KUMA_MESH_INBOUND -s 10.0.0.0/8 -j RETURN", "-A KUMA_MESH_INBOUND -s 192.0.2.1/32 -j RETURN"}},
		{"excluded outbound", strings.Replace(outbound("    excludePortsForIPs: [10.0.0.0/8]\n"), "excludePorts: []", "excludePorts: [3306, 25]", 1), []string{
			"-A KUMA_MESH_OUTBOUND -d 10.0.0.0/8 -j RETURN", "-A KUMA_MESH_OUTBOUND -p tcp -m tcp --dport 3306 -j RETURN", "-A KUMA_MESH_OUTBOUND -p tcp -m tcp --dport 25 -j RETURN"}},
		{"users", outbound("    excludePortsForUIDs: ['tcp:22:1001-1005', '80,8000-8010:1002', 1003, '*:*:0']\n"), []string{
			"-A OUTPUT -p tcp -m multiport --dports 22 -m owner --uid-owner 1001-1005 -j RETURN",
			"-A OUTPUT -p tcp -m multiport --dports 80,8000:8010 -m owner --uid-owner 1002 -j RETURN",
			"-A OUTPUT -p udp -m multiport --dports 80,8000:8010 -m owner --uid-owner 1002 -j RETURN",
			"-A OUTPUT -p tcp -m multiport --dports 1:65535 -m owner --uid-owner 1003 -j RETURN",
			"-A OUTPUT -p udp -m multiport --dports 1:65535 -m owner --uid-owner 1003 -j RETURN",
			"-A OUTPUT -p tcp -m multiport --dports 1:65535 -m owner --uid-owner 0 -j RETURN",
			"-A OUTPUT -p udp -m multiport --dports 1:65535 -m owner --uid-owner 0 -j RETURN"}},
		{"networks", set("networks: []", "networks: ['docker0:172.17.0.0/16', 'br+:fd00::/8']"), []string{
			"-A PREROUTING -i docker0 -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053", "-A PREROUTING ! -d 172.17.0.0/16 -i docker0 -p tcp -j REDIRECT --to-ports 15001"}},
		{"no lookups", set("    enabled: true\n    port: 15053", "    enabled: false\n    port: 15053"), nil},
		{"lookups elsewhere", set("15053", "15153"), []string{"-A OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15153",
			"-A OUTPUT -p udp -m udp --sport 15153 -m owner --uid-owner 5678 -j CT --zone 2"}},
		{"one zone", set("skipConntrackZoneSplit: false", "skipConntrackZoneSplit: true"), nil},
		{"invalid", set("dropInvalidPackets: false", "dropInvalidPackets: true"), []string{"-A PREROUTING -m conntrack --ctstate INVALID -j DROP"}},
		{"keys of tomorrow that say nothing", usual + "tomorrow: null\n", nil},
		{"all of Kuma's own defaults", "cniMode: true\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := lines(meshtest.Plan(t, mesh, injected(tt.config)).V4)
			fmt.Fprintf(&changes, "%s:\n", tt.name)
			for line := range strings.Lines(recorded4) {
				if !strings.Contains(got, line) {
					changes.WriteString("- " + line)
				}
			}
			var added []string
			for line := range strings.Lines(got) {
				if !strings.Contains(recorded4, line) {
					added = append(added, strings.TrimSuffix(line, "\n"))
					changes.WriteString("+ " + line)
				}
			}
			added = slices.DeleteFunc(added, func(line string) bool { return strings.HasPrefix(line, "*") })
			slices.Sort(added)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, added); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			meshtest.Check(t, mesh, injected(tt.config))
		})
	}
	golden.Check(t, "changes.golden", changes.String())
}

func TestDecide(t *testing.T) {
	with := func(change func(*rules.Pod)) rules.Pod {
		pod := injected(usual)
		change(&pod)
		return pod
	}
	containers := func(names ...string) rules.Pod {
		return with(func(p *rules.Pod) {
			p.Complete = true
			for _, name := range names {
				p.Containers = append(p.Containers, rules.Container{Name: name})
			}
		})
	}
	for _, tt := range []struct {
		name   string
		pod    rules.Pod
		action rules.Action
		reason rules.Reason
	}{
		{"injected", injected(usual), rules.Enrol, rules.ReasonInjected},
		{"with its containers", containers("kuma-validation", "kuma-sidecar", "app"), rules.Enrol, rules.ReasonInjected},
		{"nothing", rules.Pod{}, rules.Skip, rules.ReasonNotInjected},
		{"not injected", with(func(p *rules.Pod) { p.Annotations["kuma.io/sidecar-injected"] = "false" }), rules.Skip, rules.ReasonNotInjected},
		{"not in CNI mode", injected(strings.Replace(usual, "cniMode: true", "cniMode: false", 1)), rules.Skip, rules.ReasonInitContainer},
		{"says nothing of CNI mode", injected("{}"), rules.Skip, rules.ReasonInitContainer},
		{"init container", containers("kuma-init", "kuma-sidecar"), rules.Skip, rules.ReasonInitContainer},
		{"no proxy", containers("app"), rules.Skip, rules.ReasonNoProxy},
		{"no configuration", with(func(p *rules.Pod) { delete(p.Annotations, "traffic.kuma.io/transparent-proxy-config") }), rules.Skip, rules.ReasonInitContainer},
		{"no configuration, in CNI mode", with(func(p *rules.Pod) {
			delete(p.Annotations, "traffic.kuma.io/transparent-proxy-config")
			p.Annotations["k8s.v1.cni.cncf.io/networks"] = "kuma-cni"
		}), rules.Reject, rules.ReasonBadInput},
		{"host network", with(func(p *rules.Pod) { p.HostNetwork = true }), rules.Skip, rules.ReasonHostNetwork},
		{"the control plane's namespace", with(func(p *rules.Pod) { p.Namespace = "kuma-system" }), rules.Skip, rules.ReasonNamespaceExcluded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := mesh.Decide(tt.pod)
			if d.Action != tt.action || d.Reason != tt.reason || d.Mesh != "kuma" || d.Detail == "" {
				t.Errorf("%s %s (%s): %s", d.Mesh, d.Action, d.Reason, d.Detail)
			}
			meshtest.Check(t, mesh, tt.pod)
		})
	}
}

// Users of other exclusions, whose rules come first, are not taken for the proxy.
func TestProxy(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	pod := injected("cniMode: true\nredirect: {outbound: {excludePortsForUIDs: ['22:1001', '22:2000-3000']}}")
	d := mesh.Decide(pod)
	d.Proxy = d.Proxy.IdentifiedBy(meshtest.Plan(t, mesh, pod))
	as := func(name string, args ...string) rules.Container {
		return rules.Container{Name: name, Args: args, UID: id(5678), GID: id(0)}
	}
	gateway := mesh.Decide(injected("cniMode: true\nredirect: {inbound: {enabled: false}}"))
	for _, tt := range []struct {
		d         rules.Decision
		container rules.Container
		impostor  bool
	}{
		{d, as("app"), true},
		{d, as("kuma-sidecar", "/usr/bin/kuma-dp", "run", "--log-level=info"), false},
		{d, as("kuma-sidecar", "/bin/sh", "run"), true},
		{d, as("kuma-validation", "/usr/bin/kumactl", "install", "transparent-proxy-validator", "--config-file=/tmp/.kumactl"), false},
		{d, as("kuma-validation", "/usr/bin/kumactl", "install", "transparent-proxy"), true},
		{gateway, as("kuma-sidecar", "kuma-dp", "run"), false},
		{gateway, as("kuma-validation", "/usr/bin/kumactl", "install", "transparent-proxy-validator"), true}, // which its injector does not add
	} {
		if got := tt.d.Impostor(tt.container); (got != "") != tt.impostor {
			t.Errorf("%s with %q as the proxy: %q", tt.container.Name, tt.container.Args, got)
		}
	}
	if got := d.Impostor(rules.Container{Name: "app", UID: id(1001)}); got != "" {
		t.Errorf("an excluded user: %q", got)
	}
}

func TestCommentsAreSaidToStay(t *testing.T) {
	plan := meshtest.Plan(t, mesh, injected("cniMode: true\ncomments: {disabled: true}"))
	if len(plan.Notes) != 1 || !strings.Contains(plan.Notes[0], "comments.disabled") || !strings.Contains(meshtest.Lines(plan.V4), "--comment") {
		t.Errorf("notes: %q", plan.Notes)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(usual)
	f.Add("cniMode: true\nredirect: {outbound: {excludePortsForUIDs: ['tcp:22:1001-1005', 1003], includePorts: [80], excludePortsForIPs: ['10.0.0.0/8,::1']}}")
	f.Add("cniMode: true\nredirect: {vnet: {networks: ['br+:fd00::/8', 'd0:10.0.0.0/8']}, dns: {enabled: true, captureAll: true}}\ndropInvalidPackets: true")
	f.Add("cniMode: true\nipFamilyMode: ipv4\nkumaDPUser: '1'\nredirect: {inbound: {enabled: false}}")
	f.Add("cniMode: true\nredirect: {inbound: {excludePorts: [\"80\\n-A OUTPUT -j ACCEPT\"]}}")
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, config string) {
		meshtest.Check(t, mesh, injected(config))
	})
}

// What is in a list of the configuration is one text, whatever it says.
func FuzzLists(f *testing.F) {
	f.Add("tcp:22:1001-1005", "10.0.0.0/8", "docker0:172.17.0.0/16", "80")
	f.Add("1003", "fd00::1,10.0.0.1", "br+:fd00::/8", "0")
	f.Fuzz(func(t *testing.T, user, address, network, port string) {
		meshtest.Check(t, mesh, injected(fmt.Sprintf("cniMode: true\nredirect: {outbound: {excludePortsForUIDs: [%q], excludePortsForIPs: [%[2]q], includePorts: [%[4]q]}, "+
			"inbound: {excludePortsForIPs: [%[2]q], excludePorts: [%[4]q]}, vnet: {networks: [%[3]q]}}", user, address, network, port)))
	})
}

// Escapes in quotes hide nothing from the budget: a comma of \x2c parts items as any other.
func TestEscapedItemsAreCounted(t *testing.T) {
	addresses := make([]string, 300)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d", i/250, i%250)
	}
	for _, comma := range []string{",", `\x2c`, `\u002C`, `\U0000002c`} {
		d := mesh.Decide(injected("cniMode: true\nredirect: {outbound: {excludePortsForIPs: [\"" + strings.Join(addresses, comma) + "\"]}}"))
		if d.Reason != rules.ReasonOverBudget {
			t.Errorf("%s: %s (%s): %.200s", comma, d.Action, d.Reason, d.Detail)
		}
	}
}
