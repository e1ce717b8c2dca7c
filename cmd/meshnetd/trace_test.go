// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func TestTrace(t *testing.T) {
	for name, args := range map[string]string{
		"out":      "-f testdata/meshed.yaml tcp 203.0.113.10:443",
		"proxy":    "-f testdata/meshed.yaml tcp 203.0.113.10:443 --uid 2102 --gid 3102 --out",
		"in":       "-f testdata/meshed.yaml --in tcp :8080",
		"in6":      "-f testdata/meshed.yaml --in tcp [fd00:10:244::7]:8080 --src [2001:db8::5]:1234 --iface net1",
		"in-net1":  "-f testdata/around.yaml --in tcp 192.168.1.7:80 --iface net1",
		"own":      "-f testdata/meshed.yaml tcp 10.244.1.7:8080 --src 10.244.1.7",
		"reset":    "-f testdata/around.yaml --config testdata/block.toml tcp [2001:db8::1]:80",
		"around":   "-f testdata/around.yaml tcp [2001:db8::1]:80",
		"through":  "-f testdata/meshed.yaml --in tcp 10.9.9.9:80",
		"docker":   "-f testdata/meshed.yaml --in --iface docker0=172.17.0.1 --src 172.17.0.2 udp 203.0.113.10:0",
		"outside":  "-f testdata/outside.yaml udp 203.0.113.10:53",
		"loopback": "-f testdata/meshed.yaml tcp 127.0.0.5:80",
	} {
		for format, flag := range map[string]string{"text": "", "json": "--json"} {
			t.Run(name+" "+format, func(t *testing.T) {
				args := append([]string{"trace"}, strings.Fields(args+" "+flag)...)
				if !strings.Contains(strings.Join(args, " "), "--config") {
					args = append(args, "--config", testdata("default.toml"))
				}
				code, out, err := execute(t, "", args...)
				if code != 0 {
					t.Fatalf("exit %d: %v", code, err)
				}
				golden.Check(t, "trace-"+name+"."+format+".golden", out)
			})
		}
	}
}

// Over the daemon it is the very plan that is kept there, in the interfaces that are there.
func TestTraceAskedOfADaemon(t *testing.T) {
	plan := explain.Describe(plans.DualStack(t))
	plan.Interfaces = []status.Interface{{Name: "lo", Addresses: []string{"127.0.0.1", "::1"}}, {Name: "net0", Addresses: []string{"fe80::1", "10.6.6.6", "fd00::6"}}, {Name: "docker0", Addresses: []string{"172.17.0.1"}}}
	broken := plan
	broken.Key = "other"
	unread := plan
	unread.Interfaces = []status.Interface{{Name: "lo", Addresses: []string{"x"}}}
	socket := daemonWith(t, pod("shop", "cart", "89abaa", told{plan: plan}), pod("shop", "broken", "89abbb", told{plan: broken}),
		pod("shop", "unread", "89abcc", told{plan: unread}), pod("shop", "gateway", "89abdd", told{plan: explain.Describe(rules.Plan{})}))
	ask := func(args string) (int, string, error) {
		return execute(t, "", append([]string{"trace", "--socket", socket, "--config", testdata("default.toml")}, strings.Fields(args)...)...)
	}
	for args, want := range map[string][]string{
		"shop/cart tcp 203.0.113.10:443": {"pod shop/cart\ntcp 10.6.6.6:40000 to 203.0.113.10:443", "by interface net0 (--iface)", "ends: to the proxy's outbound listener, port 15001; the destination was 203.0.113.10:443\n"},
		"shop/cart --in --iface docker0 --src 172.17.0.2 udp 203.0.113.10:0": {"203.0.113.10 is no address of the pod, which forwards the packet",
			"ends: leaves for 203.0.113.10:0, by net0: no rule gives it to the proxy\n"},
		"89aba --in tcp :8080":             {"to 10.6.6.6:8080 in by net0", "ends: to the proxy's inbound listener, port 15006; the destination was 10.6.6.6:8080\n"},
		"shop/cart tcp [fd00::6]:80":       {"from [fd00::6]:40000 (--src)", "ends: to whoever listens on [fd00::6]:80 in the pod: no rule gives it to the proxy\n"},
		"shop/gateway tcp 203.0.113.10:80": {"note: the pod has no rules (protected)", "no rule matches", "from 192.0.2.2:40000, for no such address of the pod is known (--src)"},
	} {
		code, out, err := ask(args)
		if code != 0 {
			t.Errorf("%s: exit %d: %v", args, code, err)
		}
		for _, part := range want {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %q in\n%s", args, part, out)
			}
		}
	}
	for args, want := range map[string]string{"shop/broken tcp 203.0.113.10:443": "the daemon's plan is other", "shop/unread tcp 203.0.113.10:443": "the daemon's interfaces"} {
		if code, out, err := ask(args); code != exitFailed || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit %d, %v, %q", args, code, err, out)
		}
	}
}

func TestTraceBadCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"":                                            "want a pod, a protocol and where the packet goes, as in `meshnetd trace shop/cart tcp 203.0.113.10:443`",
		"tcp 1.2.3.4:80":                              "want a pod",
		"a/b tcp":                                     "want a pod",
		"a/b tcp 1.2.3.4:80 x":                        "want a pod",
		"-f x a/b tcp 1.2.3.4:80":                     "with -f POD the name is left out",
		"a/b icmp 1.2.3.4:80":                         `protocol "icmp" is not tcp or udp, as in`,
		"a/b TCP 1.2.3.4:80":                          `protocol "TCP" is not tcp or udp`,
		"a/b tcp 1.2.3.4":                             "has no port: write 1.2.3.4:443",
		"a/b tcp 2001:db8::1":                         "has no port: write [2001:db8::1]:443",
		"a/b tcp 2001:db8::1:80":                      "an IPv6 address stands in brackets: write [2001:db8::1]:80, or [2001:db8::1:80]:443",
		"a/b tcp [2001:db8::1]":                       `is no address`,
		"a/b tcp example.com:80":                      `"example.com" is no address, as in 203.0.113.10:443 or [2001:db8::10]:443; names are not looked up`,
		"a/b tcp example":                             "is no address with a port",
		"a/b tcp 1.2.3.4:http":                        `"http" is no port from 0 to 65535`,
		"a/b tcp 1.2.3.4:65536":                       `"65536" is no port`,
		"a/b tcp 1.2.3.4:-1":                          `"-1" is no port`,
		"a/b tcp [1.2.3.4]:80":                        "only an IPv6 address stands in brackets",
		"a/b tcp fe80::1%eth0":                        "has no port",
		"a/b tcp [fe80::1%eth0]:80":                   "name the interface by --iface",
		"a/b tcp 0.0.0.0:80":                          "no packet goes to 0.0.0.0",
		"a/b tcp :80":                                 "no address",
		"a/b --in tcp :x":                             `"x" is no port from 0 to 65535, as in --in tcp :8080`,
		"a/b tcp 1.2.3.4:80 --uid root":               `--uid "root" is not a number`,
		"a/b tcp 1.2.3.4:80 --gid -1":                 `--gid "-1" is not a number`,
		"a/b tcp 1.2.3.4:80 --uid 4294967295":         "is not a number from 0 to 4294967294",
		"a/b --in tcp :80 --uid 1":                    "do not go with --in",
		"a/b --in tcp :80 --iface lo":                 "is traced by --out",
		"a/b tcp 1.2.3.4:80 --iface a/b":              `--iface "a/b" is no name of an interface`,
		"a/b --in tcp 1.2.3.4:80 --iface docker0=x":   `"docker0=x" is no name with the pod's address there`,
		"a/b tcp 1.2.3.4:80 --iface sixteencharacter": "is no name of an interface",
		"a/b tcp 1.2.3.4:80 --src x":                  `--src "x": is no address`,
		"a/b tcp 1.2.3.4:80 --src ::1":                "are of two families",
		"a/b --in --out tcp 1.2.3.4:80":               "[in out]",
		"-f x --socket y tcp 1.2.3.4:80":              "--socket is the daemon's",
	} {
		code, out, err := execute(t, "", append([]string{"trace"}, strings.Fields(args)...)...)
		if code != exitBadConfig || out != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit %d, %v, %q; want %q", args, code, err, out, want)
		}
	}
	code, out, err := execute(t, "", "trace", "-f", testdata("refused.yaml"), "--config", testdata("default.toml"), "tcp", "1.2.3.4:80")
	if code != exitRefused || out != "" || !strings.Contains(err.Error(), "is refused, so that it sends nothing") {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
}
