// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// foreign are rules of others, some of which look like ours. None takes a packet from a plan: that would be refused.
const foreign = `*mangle
-A PREROUTING -i eth9 -j RETURN
-A OUTPUT -p tcp -m mark --mark 0x7 -j RETURN
COMMIT
*nat
:OTHERS - [0:0]
:ISTIO_PRERT - [0:0]
-A PREROUTING -i eth9 -j RETURN
-A PREROUTING -p tcp -m tcp --dport 99 -j OTHERS
-A OUTPUT -o eth9 -j RETURN
-A OUTPUT -o eth9 -p tcp -m tcp --dport 99 -j REDIRECT --to-ports 98
-A OTHERS -j RETURN
-A ISTIO_PRERT -j RETURN
-A POSTROUTING -o eth0 -j MASQUERADE
COMMIT
*filter
-A INPUT -p tcp -m tcp --dport 99 --tcp-flags SYN,ACK SYN -j ACCEPT
COMMIT
`

// Rules of others stay in place whatever plan comes and goes, and `remove` leaves what was before. A short run has some
// of the plans.
func TestForeignRulesStay(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		e := newEnforcer(t, variant, istio.Standard())
		for _, c := range sample.Of(t, 4, corpus(t)) {
			t.Run(c.Name, func(t *testing.T) {
				ns := nstest.New(t)
				tools := tools(variant)
				all := func() string {
					parts := append(normal(lines(ns.Run(t, "iptables"+tools+"-save"))), normal(lines(ns.Run(t, "ip6tables"+tools+"-save")))...)
					return strings.Join(append(parts, ns.Run(t, "sh", "-ec", "ip rule; ip -6 rule; ip -4 route show table all; "+
						"ip -6 route show table all; ip -o addr show")), "\n")
				}
				for _, family := range []string{"iptables", "ip6tables"} {
					ns.RunInput(t, foreign, family+tools+"-restore")
				}
				ns.Run(t, "ip", "rule", "add", "fwmark", "7", "lookup", "133")
				ns.Run(t, "ip", "rule", "add", "fwmark", "1337", "ipproto", "udp", "lookup", "133")
				before := all()
				o := protect(t, e, podOf(c, ns.Path))
				if o.Plan.Rules() == 0 || all() == before {
					t.Fatal("no rules were written")
				}
				if diff := missing(before, all()); diff != "" {
					t.Errorf("gone from the namespace while the plan is in it:\n%s", diff)
				}
				if changed, err := e.Remove(labtest.Within(t, time.Minute), ns.Path); err != nil || !changed {
					t.Fatalf("remove: %v, changed %v", err, changed)
				}
				if diff := cmp.Diff(before, all()); diff != "" {
					t.Errorf("after remove (-before +after):\n%s", diff)
				}
				if changed, err := e.Remove(labtest.Within(t, time.Minute), ns.Path); err != nil || changed {
					t.Errorf("a second remove: %v, changed %v", err, changed)
				}
			})
		}
	})
}

// missing returns the lines of a that are not in b, or not in the same order.
func missing(a, b string) string {
	rest := strings.Split(b, "\n")
	var gone []string
	for line := range strings.SplitSeq(a, "\n") {
		if i := slices.Index(rest, line); i >= 0 && (strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":")) {
			rest = slices.Delete(rest, i, i+1)
		} else if i < 0 {
			gone = append(gone, line)
		}
	}
	return strings.Join(gone, "\n")
}

// Whatever somebody does to the rules, verify sees it, and another pass mends it. A short run has some of it.
func TestDriftIsSeenAndMended(t *testing.T) {
	onVariants(t, func(t *testing.T, variant string) {
		e := newEnforcer(t, variant, istio.Standard())
		v4, v6 := "iptables"+tools(variant), "ip6tables"+tools(variant)
		owners := "-m owner --socket-exists -j RETURN"
		if variant == backend.IPTables { // which names the rules of others by their kinds
			owners = "(as nft shows it: match owner )"
		}
		drifts := map[string]struct{ command, want string }{
			"rule deleted":       {v4 + " -t nat -D ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN", "missing: -A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN"},
			"jump deleted":       {v6 + " -t nat -D OUTPUT -j ISTIO_OUTPUT", "missing: -A OUTPUT -j ISTIO_OUTPUT"},
			"chain emptied":      {v4 + " -t mangle -F ISTIO_TPROXY", "missing: -A ISTIO_TPROXY"},
			"everything flushed": {v4 + " -t nat -F", "missing: -A OUTPUT -j ISTIO_OUTPUT"},
			"rule added":         {v4 + " -t nat -I ISTIO_OUTPUT 1 -p tcp -j RETURN", "unexpected: -A ISTIO_OUTPUT -p tcp -j RETURN"},
			"rule in front":      {v4 + " -t nat -I OUTPUT 1 -p tcp -j ACCEPT", "not first: -A OUTPUT -p tcp -j ACCEPT"},
			"order changed": {v4 + " -t nat -D ISTIO_REDIRECT 1; " + v4 + " -t nat -A ISTIO_REDIRECT -p udp -j RETURN; " + v4 +
				" -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001", "unexpected: -A ISTIO_REDIRECT -p udp -j RETURN"},
			"doubled":        {v4 + " -t nat -A OUTPUT -j ISTIO_OUTPUT", "unexpected: -A OUTPUT -j ISTIO_OUTPUT"},
			"port changed":   {v4 + " -t nat -R ISTIO_REDIRECT 1 -p tcp -j REDIRECT --to-ports 15009", "unexpected: -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15009"},
			"owner changed":  {v4 + " -t nat -A ISTIO_OUTPUT -m owner --socket-exists -j RETURN", "unexpected: -A ISTIO_OUTPUT " + owners},
			"policy rule":    {"ip rule del fwmark 1337", "missing: ip rule fwmark 0x539 lookup 133"},
			"policy rule x2": {"ip -6 rule add fwmark 1337 lookup 133 pref 7", "unexpected: ip -6 rule fwmark 0x539 lookup 133, 2 times"},
			"other rule": {"ip rule del fwmark 1337; ip rule add fwmark 1337 ipproto udp lookup 133",
				"missing: ip rule fwmark 0x539 lookup 133"},
			"route":           {"ip -6 route flush table 133", "missing: ip -6 route local default dev lo table 133"},
			"loopback":        {"ip addr del ::6/128 dev lo", "missing: address ::6/128 dev lo"},
			"old chain added": {v4 + " -t raw -N ISTIO_OUTPUT_DNS", "unexpected: chain ISTIO_OUTPUT_DNS"},
		}
		for _, name := range sample.Of(t, 5, slices.Sorted(maps.Keys(drifts))) {
			tt := drifts[name]
			t.Run(name, func(t *testing.T) {
				ns := nstest.New(t, "10.0.0.7/24", "fd00::7/64")
				pod := meshed(ns.Path, "sidecar.istio.io/interceptionMode", "TPROXY")
				pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}}
				protect(t, e, pod)
				ctx := labtest.Within(t, time.Minute)
				if o := e.Verify(ctx, pod); o.Err != nil || len(o.Differences) > 0 {
					t.Fatalf("right after: %v %q", o.Err, o.Differences)
				}
				ns.Run(t, "sh", "-ec", tt.command)
				o := e.Verify(ctx, pod)
				if o.Err != nil || !slices.ContainsFunc(o.Differences, func(d string) bool { return strings.Contains(d, tt.want) }) {
					t.Errorf("got %v %q\nwant %q", o.Err, o.Differences, tt.want)
				}
				if o := protect(t, e, pod); !o.Changed {
					t.Error("nothing was mended")
				}
				if o := e.Verify(ctx, pod); o.Err != nil || len(o.Differences) > 0 {
					t.Errorf("after mending: %v %q", o.Err, o.Differences)
				}
			})
		}
	})
}

// Rules of iptables-legacy beside ours may decide instead of them: whoever adds them, no further container
// of the pod is created until they are gone. Those of a docker in the pod do not.
func TestLegacyRulesBesideOurs(t *testing.T) {
	for _, name := range []string{backend.IPTables, backend.NFTables, xtables.NFT} {
		t.Run(name, func(t *testing.T) {
			e := newEnforcer(t, name, istio.Standard())
			ns := nstest.New(t, "10.0.0.7/24")
			pod := meshed(ns.Path)
			pod.SandboxID = "web"
			protect(t, e, pod)
			ctx := labtest.Within(t, time.Minute)
			id := int64(app)
			validate := func() outcome.Outcome { return e.Validate(ctx, pod, rules.Container{Name: "app", UID: &id, GID: &id}) }
			if o := validate(); o.Error() != nil {
				t.Fatal(o.Error())
			}
			for _, docker := range []string{"-N DOCKER", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER", "-A DOCKER -i docker0 -j RETURN",
				"-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"} {
				ns.Run(t, "iptables-legacy", append([]string{"-t", "nat"}, strings.Fields(docker)...)...)
			}
			if o := validate(); o.Error() != nil {
				t.Errorf("beside docker's: %v", o.Error())
			}
			ns.Run(t, "iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9999")
			const want = "iptables nat: also in iptables-legacy, unexpected"
			if name == backend.NFTables { // its table is asked first, so that nothing is taken from it
				if o := validate(); o.Error() != nil {
					t.Errorf("a table that is asked later: %v", o.Error())
				}
				return
			}
			if o := validate(); o.Error() == nil || !strings.Contains(o.Error().Error(), want) {
				t.Errorf("got %v", o.Error())
			}
			if o := e.Verify(ctx, pod); !slices.ContainsFunc(o.Differences, func(d string) bool { return strings.Contains(d, want) }) {
				t.Errorf("verify: %q, %v", o.Differences, o.Err)
			}
			ns.Run(t, "iptables-legacy", "-t", "nat", "-F")
			if o := validate(); o.Error() != nil {
				t.Errorf("when they are gone: %v", o.Error())
			}
		})
	}
}

// A path that leads to the host's namespace is that of a hostNetwork pod, and nothing is touched.
func TestHostNamespaceIsLeftAlone(t *testing.T) {
	e := newEnforcer(t, variants[0], istio.Standard())
	o := e.Enforce(labtest.Within(t, time.Minute), lifecycle.SandboxStarted, meshed("/proc/thread-self/ns/net"))
	if o.Result != lifecycle.Skipped || o.Decision.Reason != rules.ReasonHostNetwork || o.Error() != nil {
		t.Errorf("got %s, %s, %v", o.Result, o.Decision.Reason, o.Err)
	}
	if _, err := e.Remove(labtest.Within(t, time.Minute), "/proc/thread-self/ns/net"); !errors.Is(err, netns.ErrHost) {
		t.Errorf("remove: got %v, want a refusal", err)
	}
}

// A pod that sets itself up with istio-init is not ours to verify.
func TestPodThatSetsItselfUp(t *testing.T) {
	e := newEnforcer(t, variants[0], istio.Standard())
	ns := nstest.New(t, "10.0.0.7/24")
	ns.RunInput(t, "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n", "iptables-nft-restore", "--noflush")
	pod := meshed(ns.Path, "sidecar.istio.io/status", `{"initContainers":["istio-init"],"containers":["istio-proxy"]}`)
	ctx := labtest.Within(t, time.Minute)
	if o := e.Enforce(ctx, lifecycle.ByHand, pod); o.Result != lifecycle.Skipped {
		t.Errorf("got %s, %v", o.Result, o.Err)
	}
	if o := e.Verify(ctx, pod); o.Err != nil || len(o.Differences) > 0 {
		t.Errorf("got %q, %v", o.Differences, o.Err)
	}
}

// What the pod's author reads.
func TestRefusals(t *testing.T) {
	e := newEnforcer(t, variants[0], istio.Standard())
	ns := nstest.New(t, "10.0.0.7/24")
	lonely := nstest.New(t)
	for name, tt := range map[string]struct {
		pod    rules.Pod
		result lifecycle.Result
		want   string
	}{
		"annotation": {meshed(ns.Path, "traffic.sidecar.istio.io/excludeInboundPorts", "80,http"), lifecycle.Refused,
			`meshnetd refuses pod default/web: annotation traffic.sidecar.istio.io/excludeInboundPorts: "80,http": item 2, "http", is not a port (0 to 65535; no ranges, no names). Correct the pod; it starts at the next retry`},
		"no namespace":       {meshed(""), lifecycle.Refused, "names no network namespace"},
		"no address":         {meshed(lonely.Path), lifecycle.Failed, "no address that others can reach"},
		"namespace vanished": {meshed("/run/netns/gone-for-good"), lifecycle.Failed, "the sandbox is gone"},
		"not a namespace":    {meshed("/dev/null"), lifecycle.Failed, "is not a network namespace"},
		"kata": {func() rules.Pod { p := meshed(ns.Path); p.RuntimeHandler = "kata"; return p }(), lifecycle.Refused,
			`runtime handler "kata" is not one of runtime_handlers in the node's configuration: what its sandboxes send may not pass the node's kernel, where the rules are. Ask the administrator of the node`},
	} {
		t.Run(name, func(t *testing.T) {
			o := e.Enforce(labtest.Within(t, time.Minute), lifecycle.SandboxStarted, tt.pod)
			if o.Result != tt.result || o.Error() == nil || !strings.Contains(o.Error().Error(), tt.want) {
				t.Errorf("got %s, %v\nwant %s, %s", o.Result, o.Error(), tt.result, tt.want)
			}
		})
	}
	if saved := ns.Run(t, "iptables-nft-save"); strings.Contains(saved, "ISTIO") {
		t.Errorf("a refused pod has rules:\n%s", saved)
	}
}
