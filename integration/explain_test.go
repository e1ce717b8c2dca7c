// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/status"
)

// An operator asks why a real pod is treated as it is and where a packet ends, and the real packet ends there.
func TestExplainAndTraceARunningPod(t *testing.T) {
	opts := labtest.Options(t, lab.Runtimes()[0])
	opts.DualStack, opts.DefaultValidator, opts.RequiredPlugins = true, true, []string{"meshnetd"}
	l := labtest.Start(t, opts)
	d := labtest.RunDaemon(t, l, "nri.required = true", "istio.tunnel_port = 15009", `proxy_identity = "off"`) // a container of the test speaks as the proxy
	peerPod := labtest.RunPod(t, l, "peer", nil)
	labtest.RunServer(t, peerPod, "8080", "peer")
	labtest.RunServer(t, peerPod, "19091", "excluded")
	pod := labtest.RunPod(t, l, "web", labtest.Injected("traffic.sidecar.istio.io/excludeOutboundPorts", "19091", "traffic.sidecar.istio.io/excludeInboundPorts", "18082"))
	labtest.RunProxy(t, pod)
	labtest.RunServer(t, pod, "8080", "app")
	labtest.RunServer(t, pod, "18082", "excluded-in")

	ask := func(args ...string) string {
		t.Helper()
		code, stdout, stderr := d.Command(t, args...)
		if code != 0 || stderr != "" {
			t.Fatalf("meshnetd %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
		}
		return stdout
	}
	var why status.Explanation
	if err := json.Unmarshal([]byte(ask("explain", "default/web", "--json")), &why); err != nil {
		t.Fatal(err)
	}
	if page := ask("report"); !strings.Contains(page, "default/web") || !strings.Contains(page, "every pod of the mesh holds its rules") {
		t.Errorf("the report has no pod that holds its rules:\n%s", page)
	}
	if svg := ask("explain", "default/web", "-o", "svg", "--packet", "tcp 203.0.113.7:80"); !strings.Contains(svg, "outbound listener, port 15001") {
		t.Errorf("the picture does not end at the proxy:\n%s", svg)
	}
	sources := map[string]string{}
	for _, s := range why.Settings {
		sources[s.Name] = s.Value + " from " + s.Source
	}
	for name, want := range map[string]string{
		"outboundPortsExcluded": "19091 from annotation traffic.sidecar.istio.io/excludeOutboundPorts",
		"inboundPortsExcluded":  "18082, 15020, 15021, 15090 from annotation traffic.sidecar.istio.io/excludeInboundPorts",
		"dualStack":             "true from container istio-proxy environment ISTIO_DUAL_STACK",
		"proxyUID":              fmt.Sprintf("%d from container istio-proxy user", proxy),
		"dnsPort":               "15053 from built-in default",
	} {
		if sources[name] != want {
			t.Errorf("%s is %s, want %s", name, sources[name], want)
		}
	}
	if got := sources["tunnelPort"]; !strings.HasPrefix(got, "15009 from /") || !strings.HasSuffix(got, " istio.tunnel_port") {
		t.Errorf("tunnelPort is %s", got)
	}
	if !slices.ContainsFunc(why.NotCaptured, func(g status.Gap) bool { return g.What == "outbound TCP and UDP: port 19091 is excluded" }) || len(why.Rules) == 0 {
		t.Errorf("not captured: %+v; %d rules", why.NotCaptured, len(why.Rules))
	}
	for _, gap := range why.NotCaptured {
		if len(gap.Trace) == 0 {
			continue
		}
		if out := ask(append([]string{"trace", "default/web"}, gap.Trace...)...); !strings.Contains(out, "no rule gives it to the proxy") {
			t.Errorf("%s: %v says\n%s", gap.What, gap.Trace, out)
		}
	}

	own, other := pod.IP().String(), peerPod.IP().String()
	for _, tt := range []struct {
		way, to string
		uid     int
		end     string // the tracer's
		reply   string // what the real connection reached
	}{
		{"out", net.JoinHostPort(other, "8080"), app, "to the proxy's outbound listener, port 15001; the destination was " + other + ":8080", "outbound original_dst=" + other + ":8080"},
		{"out", net.JoinHostPort(other, "19091"), app, "leaves for " + other + ":19091, by eth0: no rule gives it to the proxy", "excluded peer="},
		{"out", net.JoinHostPort(other, "8080"), proxy, "leaves for " + other + ":8080, by eth0: no rule gives it to the proxy", "peer peer="},
		{"out", net.JoinHostPort(own, "8080"), app, "to whoever listens on " + own + ":8080 in the pod: no rule gives it to the proxy", "app peer="},
		{"in", net.JoinHostPort(own, "8080"), app, "to the proxy's inbound listener, port 15006; the destination was " + own + ":8080", "inbound original_dst=" + own + ":8080"},
		{"in", net.JoinHostPort(own, "18082"), app, "to whoever listens on " + own + ":18082 in the pod: no rule gives it to the proxy", "excluded-in peer="},
	} {
		args := []string{"trace", "default/web", "--" + tt.way, "tcp", tt.to}
		from := peerPod
		if tt.way == "out" {
			from = pod
			args = append(args, "--uid", fmt.Sprint(tt.uid), "--gid", fmt.Sprint(tt.uid))
		}
		if out := ask(args...); !strings.HasSuffix(out, "\nends: "+tt.end+"\n") {
			t.Errorf("%v says\n%s\nwant %s", args, out, tt.end)
		}
		reply, err := labtest.FirstAct(labtest.Within(t, time.Minute), from, tt.uid, "tcp4", tt.to)
		if err != nil || !strings.HasPrefix(reply, tt.reply) {
			t.Errorf("%v: the real one reaches %q, %v; want %q", args, reply, err, tt.reply)
		}
	}

	if table := ask("status", "default/w*", "--outcome", "protected"); !strings.Contains(table, "default/web") || !strings.Contains(table, "pod_protected") || strings.Contains(table, "default/peer") {
		t.Errorf("status says\n%s", table)
	}
	for _, args := range [][]string{{"explain", "default/peer"}, {"trace", "default/peer", "tcp", "203.0.113.7:80"}} {
		if code, stdout, stderr := d.Command(t, args...); code != 1 || stdout != "" || !strings.Contains(stderr, "no pod default/peer of the mesh runs on this node") {
			t.Errorf("%v: exit %d, %q, %q", args, code, stdout, stderr)
		}
	}
	labtest.InNetNS(t, pod.NetNS(), "iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "ISTIO_OUTPUT")
	ask("verify", "default/web", "--repair")
	if table := ask("status", "default/web"); !strings.Contains(table, "1, ") || !strings.Contains(table, "drift_repaired") {
		t.Errorf("status says\n%s", table)
	}
	d.End(t)
}
