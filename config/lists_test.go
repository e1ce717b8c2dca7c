// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each table's problems are at the lines of that table, whatever the others have there, and come with the
// problems of the rest of the file.
func TestProblemsOfAnnotations(t *testing.T) {
	const file = `catch_up = "maybe"

[[annotations]]
annotation = "a["
allow = ["9100-9000", "70000-70001", "-", "10.0.0.0/33", "10.0.0.0/08", " x", "1,2", "80"]

[nri]
index = "1"

[[annotations]] # has nothing
[[annotations]]
otherwise = "no"
alow = []
text = """
[[annotations]]
annotation = "not a table"
"""
annotation = ""
namespaces = ["ok", "team-["]

[[annotations]]
allow = 80
otherwise = 3
annotation = ["a"]
[annotations.namespaces]
a = 1
[log]
level = "loud"
`
	_, err := Parse("bad.toml", file)
	noPattern := ` is no pattern: not empty, * and ? stand for anything but a slash, [a-z] for one of a set, \ takes away their meaning`
	want := `bad.toml:1: catch_up: "maybe" is none of apply, report, stop
bad.toml:4: annotations[0].annotation: "a["` + noPattern + `
bad.toml:5: annotations[0].allow: "9100-9000" is no range of ports: 0 to 65535, the first not above the last; ` +
		`"70000-70001" is no range of ports: 0 to 65535, the first not above the last; ` +
		`"-" is no range of ports: 0 to 65535, the first not above the last; ` +
		`"10.0.0.0/33" is not a CIDR such as 10.0.0.0/8; "10.0.0.0/08" is not a CIDR such as 10.0.0.0/8; ` +
		`" x" is no single item: values are split at commas and trimmed; "1,2" is no single item: values are split at commas and trimmed
bad.toml:8: nri.index: "1" is not two digits
bad.toml:10: annotations[1]: has no annotation
bad.toml:12: annotations[2].otherwise: "no" is none of refuse, ignore, allow
bad.toml:13: annotations[2].alow: unknown key
bad.toml:17: annotations[2].text: unknown key
bad.toml:18: annotations[2].annotation: ""` + noPattern + `
bad.toml:19: annotations[2].namespaces: "team-["` + noPattern + `
bad.toml:22: annotations[3].allow: incompatible types: TOML value has type int64; destination has type slice
bad.toml:23: annotations[3].otherwise: incompatible types: TOML value has type int64; destination has type string
bad.toml:24: annotations[3].annotation: incompatible types: TOML value has type []any; destination has type string
bad.toml:25: annotations[3].namespaces: incompatible types: TOML value has type map[string]any; destination has type slice
bad.toml:28: log.level: "loud" is none of debug, info, warn, error`
	if err == nil {
		t.Fatal("accepted")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A profile's problems are at its lines, and so is what is wrong between its keys, or with an earlier one.
func TestProblemsOfStatic(t *testing.T) {
	const file = `[[static]]
name = "istio"
proxy_uid = 1
proxy_containers = ["p"]
inbound_port = 5
outbound_port = 5
labels = ["a"]

[[static]]
proxy_uid = 0
proxy_containers = []
labels = ["=x", "a b"]
mode = "DNAT"

[[static]]
name = "mine"
proxy_uid = 1
proxy_containers = ["p"]
mode = "TPROXY"

[[static]]
name = "mine"
proxy_uid = 1
proxy_containers = [""]
exclude_interfaces = ["lo", "eth+"]
exclude_outbound_cidrs = ["10.0.0.1/8"]
exempt_uids = [-1]

[[static]]
name = "mine"
proxy_uid = 1
proxy_containers = ["p"]
namespaces = ["*"]
outbound_port = 7
dns_port = 7

[[static]]
name = "sixth"
proxy_uid = 1
proxy_containers = []
labels = ["a"]
dns_port = 7
`
	_, err := Parse("bad.toml", file)
	want := `bad.toml:2: static[0].name: "istio" is a mesh that meshnetd knows: its table is [istio], and a profile needs a name of its own
bad.toml:6: static[0].outbound_port: 5 is inbound_port already: two listeners cannot share a port
bad.toml:9: static[1]: has no name
bad.toml:10: static[1].proxy_uid: 0 is not between 1 and 4294967294
bad.toml:12: static[1].labels: "=x" is neither KEY nor KEY=VALUE; there are no patterns here; "a b" is neither KEY nor KEY=VALUE; there are no patterns here
bad.toml:13: static[1].mode: "DNAT" is none of REDIRECT, TPROXY
bad.toml:15: static[2]: selects every pod: name labels, annotations or namespaces, or namespaces = ["*"] if that is meant; redirects nothing: it has no inbound_port, outbound_port or dns_port
bad.toml:19: static[2].mode: TPROXY is for inbound traffic, and there is no inbound_port
bad.toml:24: static[3].proxy_containers: "" is no name
bad.toml:25: static[3].exclude_interfaces: "lo" is no name of an interface besides lo: 15 letters, digits and any of _.:@- at most; there are no patterns here; "eth+" is no name of an interface besides lo: 15 letters, digits and any of _.:@- at most; there are no patterns here
bad.toml:26: static[3].exclude_outbound_cidrs: "10.0.0.1/8" is not a CIDR such as 10.0.0.0/8, without host bits
bad.toml:27: static[3].exempt_uids: -1 is not between 0 and 4294967294
bad.toml:30: static[4].name: "mine" is another profile's name already
bad.toml:35: static[4].dns_port: 7 is outbound_port already: two listeners cannot share a port
bad.toml:40: static[5].proxy_containers: an empty list would refuse the proxy itself, which runs as user proxy_uid`
	if err == nil {
		t.Fatal("accepted")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A profile whose pods would all be refused for their rules is refused itself, by the budget of the same file.
func TestStaticWithinTheBudget(t *testing.T) {
	users := make([]string, 100)
	for i := range users {
		users[i] = strconv.Itoa(1000 + i)
	}
	profile := "[[static]]\nname = \"a\"\nproxy_uid = 1\nproxy_containers = [\"p\"]\nlabels = [\"a\"]\noutbound_port = 7\nexempt_uids = [" + strings.Join(users, ",") + "]\n"
	if _, err := Parse("few.toml", profile); err != nil {
		t.Error(err)
	}
	want := "many.toml:1: static[0]: gives each of its pods up to 210 rules: more than the 200 of budget.rules, so that all would be refused"
	if _, err := Parse("many.toml", profile+"[budget]\nrules = 200\n"); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Every list names all of its bad items, and not the first alone.
func TestEveryBadItemIsNamed(t *testing.T) {
	const inStatic, inLockdown = "[[static]]\nname = \"a\"\nproxy_uid = 1\nproxy_containers = [\"p\"]\nnamespaces = [\"*\"]\ninbound_port = 5\n", "[[lockdown]]\nudp = \"none\"\negress = \"proxy\"\ninbound = \"proxy\"\n"
	for list, want := range map[string][]string{
		"mesh.enabled = [\"isto\", \"kuma\", \"x\", \"kuma\"]":                                  {`"isto" is none of`, `"x" is none of`, `"kuma" is there twice`},
		"[linkerd]\nskip_inbound = [\"2-1\", 5, 70000]":                                         {`"2-1" is no port`, `"70000" is no port`},
		"[linkerd]\nredirect_ports = [\"1-2\", 80, 0, \"x\"]":                                   {"1 to 2 is not a port", "0 is not a port", `"x" is no port`},
		"[istio]\nowner_groups = [\"wheel\", 5, \"x\"]":                                         {`"wheel" is not a numeric`, `"x" is not a numeric`},
		"[istio]\nowner_groups = [\"*\", 5, \"x\"]":                                             {`"x" is not a numeric`},
		"[istio]\nowner_groups_exclude = [\"*\", \"x\"]":                                        {`"*" would exclude everybody`, `"x" is not a numeric`},
		inStatic + "exempt_uids = [-1, 5, 4294967295]":                                          {"-1 is not between", "4294967295 is not between"},
		inStatic + "include_inbound_ports = [\"a\", \"b\"]":                                     {`"a" is no port`, `"b" is no port`},
		inLockdown + "local_ports = [\"a\", \"b\"]":                                             {`"a" is no port`, `"b" is no port`},
		inLockdown + "allow = [\"x\", \"10.0.0.0/8:1-9/udp\", \"10.1.0.0/16:5/udp\", \"y\"]":    {`"x" is `, `"10.1.0.0/16:5/udp" says nothing that`, `"y" is `},
		inLockdown + "allow_inbound = [\"x\", \"y\"]":                                           {`"x" is `, `"y" is `},
		inLockdown + "proxy_egress = [\"imds\", \"169.254.0.0/16:80/tcp\", \"imds\", \"what\"]": {`says nothing that 169.254.0.0/16:80/tcp does not`, `"imds" says nothing that 169`, `"what" is `},
	} {
		_, err := Parse("f.toml", list+"\n")
		if err == nil {
			t.Errorf("%s: accepted", list)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: no %q in %v", list, part, err)
			}
		}
	}
	if _, err := Parse("f.toml", "[istio]\nowner_groups = [\"*\", 5]\n"); err == nil {
		t.Error("everybody, and somebody")
	}
}
