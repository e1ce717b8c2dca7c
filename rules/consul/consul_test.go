// SPDX-License-Identifier: Apache-2.0

package consul_test

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	declared "github.com/meshnetd/meshnetd/rules/mesh"
)

var (
	mesh = consul.New(consul.Standard())
	both = meshtest.Addresses("10.244.1.7", "fd00:10:244::7")
)

const prefix = "consul.hashicorp.com/"

// injected is a pod with a configuration, and other annotations given in pairs.
func injected(config string, pairs ...string) rules.Pod {
	pod := rules.Pod{Namespace: "shop", Name: "cart", IPs: both, Annotations: map[string]string{
		prefix + "connect-inject-status": "injected", prefix + "transparent-proxy-status": "enabled",
		prefix + "dual-stack": "false", prefix + "redirect-traffic-config": config}}
	for pair := range slices.Chunk(pairs, 2) {
		pod.Annotations[prefix+pair[0]] = pair[1]
	}
	return pod
}

// minimal is a configuration with more keys.
func minimal(more string) string {
	return `{"ProxyUserID":"5995","ProxyInboundPort":20000` + more + `}`
}

// What version 0.18.1 of Consul's library did with each configuration, read back with iptables-save: a line with
// "# DUALSTACK CONFIGURATION", then the rules of both families.
//
//go:embed testdata/recorded.txt
var recorded string

func TestRecorded(t *testing.T) {
	n := 0
	for part := range strings.SplitSeq("\n"+recorded, "\n# ") {
		head, lines, ok := strings.Cut(part, "\n")
		if !ok {
			continue
		}
		n++
		dualStack, config, _ := strings.Cut(head, " ")
		t.Run(head, func(t *testing.T) {
			plan := meshtest.Plan(t, mesh, injected(config, "dual-stack", dualStack))
			got := "## iptables-nft\n" + meshtest.Lines(plan.V4) + "## ip6tables-nft\n" + meshtest.Lines(plan.V6)
			got = strings.ReplaceAll(got, "*nat\n", "")
			if diff := cmp.Diff(chains(lines), chains(got)); diff != "" {
				t.Errorf("(-recorded +ours):\n%s", diff)
			}
		})
	}
	if n != 8 {
		t.Errorf("%d configurations were recorded", n)
	}
}

// chains returns the rules of each chain of each family, in their order.
func chains(lines string) map[string][]string {
	rest := map[string][]string{}
	family := ""
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			family = line
		} else if fields := strings.Fields(line); len(fields) > 2 {
			rest[family+" "+fields[1]] = append(rest[family+" "+fields[1]], line)
		}
	}
	return rest
}

// What Consul's library does not do, or does otherwise.
func TestConfiguration(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		chain        string
		want         []string
	}{
		{"a range", minimal(`,"ExcludeOutboundPorts":["8000:8010","80"]`), "CONSUL_PROXY_OUTPUT", []string{
			"-p tcp -m tcp --dport 80 -j RETURN", "-p tcp -m multiport --dports 8000:8010 -j RETURN",
			"-m owner --uid-owner 5995 -j RETURN", "-d 127.0.0.1/32 -j RETURN", "-j CONSUL_PROXY_REDIRECT"}},
		{"ranges of the other family", minimal(`,"ExcludeOutboundCIDRs":["fd00::/8","10.0.0.0/8","::1"]`), "CONSUL_PROXY_OUTPUT", []string{
			"-d 10.0.0.0/8 -j RETURN", "-m owner --uid-owner 5995 -j RETURN", "-d 127.0.0.1/32 -j RETURN", "-j CONSUL_PROXY_REDIRECT"}},
		{"outbound port 0", minimal(`,"ProxyOutboundPort":0`), "CONSUL_PROXY_REDIRECT", []string{"-p tcp -j REDIRECT --to-ports 15001"}},
		{"nothing is taken from NetNS", minimal(`,"NetNS":"/proc/1/ns/net","IptablesProvider":{},"NftablesProvider":null`), "CONSUL_PROXY_IN_REDIRECT",
			[]string{"-p tcp -j REDIRECT --to-ports 20000"}},
		{"a key of tomorrow that says nothing", minimal(`,"Tomorrow":null`), "CONSUL_PROXY_IN_REDIRECT", []string{"-p tcp -j REDIRECT --to-ports 20000"}},
		{"empty lists", minimal(`,"ExcludeInboundPorts":[],"ExcludeUIDs":null,"ConsulDNSIP":""`), "CONSUL_PROXY_INBOUND", []string{"-p tcp -j CONSUL_PROXY_IN_REDIRECT"}},
		{"with blanks", " {\n" + minimal("")[1:] + "\n", "CONSUL_PROXY_IN_REDIRECT", []string{"-p tcp -j REDIRECT --to-ports 20000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := meshtest.Plan(t, mesh, injected(tt.config)).V4.Table("nat").Chain(tt.chain)
			var got []string
			for _, r := range c.Rules {
				got = append(got, r.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestInputs(t *testing.T) {
	meshtest.Inputs(t, mesh, func(key, value string) rules.Pod {
		if key == "dual-stack" {
			return injected(minimal(""), "dual-stack", value)
		}
		if key == "ProxyUserID" {
			return injected(`{"ProxyInboundPort":20000,"ProxyUserID":` + value + `}`)
		}
		return injected(minimal(`,"` + key + `":` + value))
	})
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ config, problem string }{
		{``, "is empty"},
		{`null`, "not a JSON object"},
		{`[]`, "not a JSON object"},
		{`"x"`, "not a JSON object"},
		{`{`, "not JSON at byte"},
		{`{"ProxyUserID"`, "not JSON at byte"},
		{`{"ProxyUserID":"5995",}`, "not JSON at byte"},
		{minimal("") + `{}`, "something follows"},
		{minimal("") + `}`, "something follows"},
		{minimal(`,"ProxyUserID":"5996"`), "ProxyUserID is there twice"},
		{minimal(`,"proxyuserid":"5996"`), "proxyuserid: \"5996\": it is not known"},
		{minimal(`,"Tomorrow":false`), "Tomorrow: false: it is not known"},
		{`{"ProxyInboundPort":20000}`, "ProxyUserID: \"\" is not a number"},
		{`{"ProxyUserID":"5995"}`, "ProxyInboundPort is missing or 0"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":0}`, "ProxyInboundPort is missing or 0"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":"20000"}`, "ProxyInboundPort: \"20000\": want a port number"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":65536}`, "want a port number"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":-1}`, "want a port number"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":20000.5}`, "want a port number"},
		{`{"ProxyUserID":"5995","ProxyInboundPort":15001}`, "cannot share a port"},
		{`{"ProxyUserID":5995,"ProxyInboundPort":20000}`, "ProxyUserID: 5995: want a text"},
		{`{"ProxyUserID":"envoy","ProxyInboundPort":20000}`, "ProxyUserID: \"envoy\" is not a number"},
		{`{"ProxyUserID":"0","ProxyInboundPort":20000}`, "ProxyUserID: \"0\" is not a number from 1"},
		{`{"ProxyUserID":"4294967295","ProxyInboundPort":20000}`, "ProxyUserID"},
		{minimal(`,"ExcludeInboundPorts":[80]`), "ExcludeInboundPorts: [80]: want a list of texts"},
		{minimal(`,"ExcludeInboundPorts":"80"`), "want a list of texts"},
		{minimal(`,"ExcludeInboundPorts":[null]`), "item 1 is null"},
		{minimal(`,"ExcludeInboundPorts":["80",""]`), `item 2, "", is not a port`},
		{minimal(`,"ExcludeInboundPorts":["http"]`), "not a port"},
		{minimal(`,"ExcludeOutboundPorts":["90:80"]`), "not a port"},
		{minimal(`,"ExcludeOutboundPorts":["80:90:100"]`), "not a port"},
		{minimal(`,"ExcludeOutboundPorts":["80: 90"]`), "not a port"},
		{minimal(`,"ExcludeOutboundPorts":["65536"]`), "not a port"},
		{minimal(`,"ExcludeOutboundPorts":["80 -j ACCEPT\n-A OUTPUT"]`), "not a port"},
		{minimal(`,"ExcludeOutboundCIDRs":["10.0.0.0/33"]`), "not an address or a CIDR"},
		{minimal(`,"ExcludeOutboundCIDRs":["example.org"]`), "not an address or a CIDR"},
		{minimal(`,"ExcludeOutboundCIDRs":["fe80::1%eth0"]`), "not an address or a CIDR"},
		{minimal(`,"ExcludeUIDs":["root"]`), "not the number of a user"},
		{minimal(`,"ExcludeUIDs":["4294967295"]`), "not the number of a user"},
		{minimal(`,"ExcludeUIDs":["1-5"]`), "not the number of a user"},
		{minimal(`,"ConsulDNSIP":"localhost"`), `ConsulDNSIP: "localhost" is not an address`},
		{minimal(`,"ConsulDNSIP":"0.0.0.0"`), "not an address"},
		{minimal(`,"ConsulDNSIP":"::ffff:127.0.0.1"`), "not an address"},
		{minimal(`,"ConsulDNSIP":"::1"`), "ConsulDNSIP ::1 must be an IPv4 address"},
		{minimal(`,"ConsulDNSPort":65536`), "want a port number"},
	} {
		t.Run(tt.config, func(t *testing.T) {
			refused(t, injected(tt.config), "annotation "+prefix+"redirect-traffic-config", tt.problem)
		})
	}
	refused(t, injected(minimal(""), "dual-stack", "yes"), "annotation "+prefix+"dual-stack", `want "true" or "false"`)
	refused(t, injected(minimal(""), "dual-stack", "True"), "annotation "+prefix+"dual-stack", `want "true" or "false"`)
	refused(t, injected(minimal(`,"ConsulDNSIP":"127.0.0.1"`), "dual-stack", "true"), "must be an IPv6 address")
}

func refused(t *testing.T, pod rules.Pod, parts ...string) {
	t.Helper()
	d := mesh.Decide(pod)
	if d.Action != rules.Reject || d.Reason != rules.ReasonBadInput || d.Planner != nil {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	for _, part := range parts {
		if !strings.Contains(d.Detail, part) {
			t.Errorf("%q does not say %q", d.Detail, part)
		}
	}
}

func TestDecide(t *testing.T) {
	with := func(change func(*rules.Pod)) rules.Pod {
		pod := injected(minimal(""))
		change(&pod)
		return pod
	}
	without := func(key string) rules.Pod { return with(func(p *rules.Pod) { delete(p.Annotations, prefix+key) }) }
	for _, tt := range []struct {
		name   string
		pod    rules.Pod
		action rules.Action
		reason rules.Reason
	}{
		{"injected", injected(minimal("")), rules.Enrol, rules.ReasonInjected},
		{"by the other key", with(func(p *rules.Pod) {
			delete(p.Annotations, prefix+"connect-inject-status")
			p.Annotations[prefix+"mesh-inject-status"] = "injected"
		}), rules.Enrol, rules.ReasonInjected},
		{"already said to be done", with(func(p *rules.Pod) { p.Annotations[prefix+"transparent-proxy-status"] = "complete" }), rules.Enrol, rules.ReasonInjected},
		{"an injector that does not know dual stack", without("dual-stack"), rules.Enrol, rules.ReasonInjected},
		{"nothing", rules.Pod{}, rules.Skip, rules.ReasonNotInjected},
		{"not injected", without("connect-inject-status"), rules.Skip, rules.ReasonNotInjected},
		{"no transparent proxy", without("transparent-proxy-status"), rules.Skip, rules.ReasonInterceptionNone},
		{"not in CNI mode", without("redirect-traffic-config"), rules.Skip, rules.ReasonInitContainer},
		{"host network", with(func(p *rules.Pod) { p.HostNetwork = true }), rules.Skip, rules.ReasonHostNetwork},
		{"namespace", with(func(p *rules.Pod) { p.Namespace = "consul" }), rules.Skip, rules.ReasonNamespaceExcluded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := consul.New(consul.Defaults{Common: declared.Common{ExcludeNamespaces: []string{"consul"}}})
			d := m.Decide(tt.pod)
			if d.Action != tt.action || d.Reason != tt.reason || d.Mesh != "consul" || d.Detail == "" {
				t.Errorf("%s %s (%s): %s", d.Mesh, d.Action, d.Reason, d.Detail)
			}
			meshtest.Check(t, m, tt.pod)
		})
	}
}

// Excluded users, whose rules come first, are not taken for the proxy.
func TestProxy(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	pod := injected(minimal(`,"ExcludeUIDs":["5996"]`))
	d := mesh.Decide(pod)
	d.Proxy = d.Proxy.IdentifiedBy(meshtest.Plan(t, mesh, pod))
	dataplane, envoy := []string{"/usr/local/bin/dumb-init", "/usr/local/bin/consul-dataplane", "-addresses"}, []string{"envoy", "--config-path"}
	for _, tt := range []struct {
		version, name string
		args          []string
		impostor      bool
	}{
		{"", "app", nil, true},
		{"", "consul-dataplane", dataplane, false},
		{"v1.8.1", "consul-dataplane", dataplane, false},
		{"v1.8.1", "consul-dataplane", envoy, true},
		{"v1.8.1", "envoy-sidecar", envoy, true},
		{"", "envoy-sidecar", envoy, true},
		{"v0.49.8", "envoy-sidecar", envoy, false},
		{"0.49.8", "envoy-sidecar", dataplane, true},
		{"v0.49.8", "consul-dataplane", dataplane, true},
	} {
		pod.Annotations["consul.hashicorp.com/connect-k8s-version"] = tt.version
		if got := mesh.Decide(pod).Impostor(rules.Container{Name: tt.name, Args: tt.args, UID: id(5995), GID: id(0)}); (got != "") != tt.impostor {
			t.Errorf("%s with %q of injector %s as the proxy: %q", tt.name, tt.args, tt.version, got)
		}
	}
	if got := d.Impostor(rules.Container{Name: "consul-connect-inject-init", UID: id(5996), GID: id(5996)}); got != "" {
		t.Errorf("an excluded user: %q", got)
	}
}

func FuzzConfig(f *testing.F) {
	for part := range strings.SplitSeq("\n"+recorded, "\n# ") {
		if head, _, ok := strings.Cut(part, "\n"); ok {
			dualStack, config, _ := strings.Cut(head, " ")
			f.Add(config, dualStack)
		}
	}
	f.Add(minimal(`,"ExcludeOutboundPorts":["80\n-A OUTPUT -j ACCEPT"]`), "")
	f.Fuzz(func(t *testing.T, config, dualStack string) {
		meshtest.Check(t, mesh, injected(config, "dual-stack", dualStack))
	})
}

// What is in a list of the configuration is one text, whatever it says.
func FuzzLists(f *testing.F) {
	f.Add("80", "10.0.0.0/8", "1000", "127.0.0.1")
	f.Add("80:90", "fd00::/8", "0", "::1")
	f.Fuzz(func(t *testing.T, port, cidr, uid, dns string) {
		config := minimal(fmt.Sprintf(`,"ExcludeInboundPorts":[%[1]q],"ExcludeOutboundPorts":[%[1]q],"ExcludeOutboundCIDRs":[%q],"ExcludeUIDs":[%q],"ConsulDNSIP":%q`, port, cidr, uid, dns))
		meshtest.Check(t, mesh, injected(config))
		meshtest.Check(t, mesh, injected(config, "dual-stack", "true"))
	})
}
