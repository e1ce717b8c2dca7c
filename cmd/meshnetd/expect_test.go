// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// expecting writes a file of expectations.
func expecting(t *testing.T, lines ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "expect.toml")
	if err := os.WriteFile(file, []byte("[expect]\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What the examples expect is so; each says how it is tried.
func TestExpectedOfExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/expect-*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, command, found := strings.Cut(string(text), "`meshnetd test ")
		command, _, ended := strings.Cut(command, "`")
		if !found || !ended {
			t.Fatalf("%s does not say how it is tried", file)
		}
		args := append([]string{"test"}, strings.Fields(strings.ReplaceAll(command, "examples/", "../../examples/"))...)
		if !strings.Contains(command, "--config") {
			args = append(args, "--config", testdata("default.toml"))
		}
		if code, out, err := execute(t, "", args...); code != 0 {
			t.Errorf("%s: exit %d, %v\n%s", file, code, err, out)
		}
	}
}

func TestExpected(t *testing.T) {
	met := expecting(t, `"tcp out 443" = "proxy"`, `"tcp in 8080" = "proxy 15006"`, `"tcp to 203.0.113.10:443 as uid 2102 gid 3102" = "leaves"`)
	missed := expecting(t, `"tcp out 443" = "leaves"`, `"udp out 443 ipv6" = "blocked"`, `"tcp in 8080" = "proxy 15001"`, `"tcp in 22 from 127.0.0.1" = "dropped"`)
	socket := daemonWith(t, pod("shop", "cart", "89abaa", told{plan: dualStack(t)}))
	for _, tt := range []struct {
		name, args string
		code       int
	}{
		{"met", "-f " + met + " -f testdata/meshed.yaml", 0},
		{"met-daemon", "-f " + met + " --socket " + socket + " shop/cart", exitDifference}, // its proxy is another user
		{"missed", "-f " + missed + " -f testdata/meshed.yaml", exitDifference},
		{"outside", "-f " + met + " -f testdata/outside.yaml", exitDifference},
	} {
		for _, format := range []string{"text", "json"} {
			args := append([]string{"test", "--config", testdata("default.toml")}, strings.Fields(tt.args)...)
			if format == "json" {
				args = append(args, "--json")
			}
			code, out, err := execute(t, "", args...)
			if code != tt.code || (err == nil) != (code == 0) {
				t.Errorf("%s: exit %d, %v, want %d", tt.name, code, err, tt.code)
			}
			for _, file := range []string{met, missed} {
				out = strings.ReplaceAll(out, file, "expect.toml")
			}
			golden.Check(t, "test-"+tt.name+"."+format+".golden", out)
		}
	}
}

func dualStack(t *testing.T) status.Plan {
	t.Helper()
	plan := explain.Describe(plans.DualStack(t))
	plan.Interfaces = []status.Interface{{Name: "lo", Addresses: []string{"127.0.0.1", "::1"}}, {Name: "net0", Addresses: []string{"10.6.6.6", "fd00::6"}}}
	return plan
}

func TestExpectedBadCommandLine(t *testing.T) {
	good, bad := expecting(t, `"tcp out 443" = "proxy"`), expecting(t, `"tcp out" = "proxy"`)
	for args, want := range map[string]struct {
		code int
		said string
	}{
		"shop/cart":  {exitBadConfig, "name a file of expectations"},
		"-f " + good: {exitBadConfig, "name a pod as NAMESPACE/POD, or a manifest by a second -f"},
		"-f " + good + " -f testdata/meshed.yaml a/b":   {exitBadConfig, "and not both"},
		"-f " + good + " -f a.yaml -f b.yaml":           {exitBadConfig, "a.yaml and b.yaml are two manifests"},
		"-f " + good + " -f a.yaml --traffic":           {exitBadConfig, "--traffic sends packets in a pod that runs"},
		"-f " + good + " -f a.yaml --socket x":          {exitBadConfig, "-f goes without one"},
		"-f nowhere.toml a/b":                           {exitFailed, "expectations: open nowhere.toml"},
		"-f " + bad + " a/b":                            {exitBadConfig, bad + ":2: tcp out: it names no port"},
		"-f " + good + " -f testdata/refused.yaml":      {exitRefused, "is refused, so that it sends nothing"},
		"-f " + good + " --socket /nowhere/s shop/cart": {exitFailed, "/nowhere/s"},
	} {
		args := append(strings.Fields(args), "--config", testdata("default.toml"))
		code, out, err := execute(t, "", append([]string{"test"}, args...)...)
		if code != want.code || out != "" || err == nil || !strings.Contains(err.Error(), want.said) {
			t.Errorf("%s: exit %d, %v, %q; want %d, %q", args, code, err, out, want.code, want.said)
		}
	}
}

// By packets it is what the kernel does, with the pod's rules and without them.
func TestExpectedByTraffic(t *testing.T) {
	nstest.RequireRoot(t)
	pods := nstest.New(t)
	pods.Peer(t, "10.9.0.0/24")
	ns, err := netns.Open(pods.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	plan := plans.DualStack(t)
	plan.V6 = rules.Ruleset{Family: rules.IPv6}
	plan.Loopback = nil
	toldPlan := explain.Describe(plan)
	toldPlan.Device, toldPlan.Inode = ns.ID().Dev, ns.ID().Ino
	toldPlan.Interfaces = []status.Interface{{Name: "eth0", Addresses: []string{"10.9.0.1"}}}
	sandbox := pod("shop", "cart", "89abaa", told{plan: toldPlan})
	sandbox.NetNS = pods.Path
	socket := daemonWith(t, sandbox)
	file := expecting(t, `"tcp to 192.0.2.1:443" = "proxy 15001"`, `"tcp in 8080" = "proxy 15006"`, `"udp out 443" = "leaves"`)
	for _, written := range []bool{false, true} {
		want, code := []string{"unknown    tcp to 192.0.2.1:443", "unknown    udp out 443", "no connection of its family is tracked"}, exitFailed
		if written {
			want, code = []string{"3 packets: 3 ended as expected"}, 0
			if _, err := nftables.New(nftables.Dialect("nftables")).Apply(t.Context(), ns, plan); err != nil {
				t.Fatal(err)
			}
		}
		got, out, err := execute(t, "", "test", "-f", file, "--traffic", "--config", testdata("default.toml"), "--socket", socket, "shop/cart")
		if got != code {
			t.Errorf("rules %v: exit %d, %v", written, got, err)
		}
		for _, part := range want {
			if !strings.Contains(out, part) {
				t.Errorf("rules %v: no %q in\n%s", written, part, out)
			}
		}
	}
	if code, out, _ := execute(t, "", "test", "-f", expecting(t, `"udp in 53" = "delivered"`), "--traffic", "--config", testdata("default.toml"), "--socket", socket, "shop/cart"); code != exitFailed || !strings.Contains(out, "only TCP can be made to arrive") {
		t.Errorf("exit %d\n%s", code, out)
	}
}
