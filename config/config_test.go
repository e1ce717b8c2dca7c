// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compare = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}

func TestReferenceIsTheDefault(t *testing.T) {
	got, err := Parse("reference.toml", Reference)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got, compare); diff != "" {
		t.Errorf("reference.toml does not hold the defaults (-default +reference):\n%s", diff)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	var c Config
	table := ""
	documented := map[string]bool{}
	for line := range strings.Lines(Reference) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[]") + "."
		}
		if key, _, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			documented[table+key] = true
		}
	}
	for key := range keys(&c) {
		if !documented[key] {
			t.Errorf("key %s is not in reference.toml", key)
		}
		delete(documented, key)
	}
	if len(documented) > 0 {
		t.Errorf("reference.toml has keys that do not exist: %v", documented)
	}
}

// Every key must reach a field of its own: a file that changes all of them changes all of the result.
func TestEveryKeyIsHeard(t *testing.T) {
	got, err := Parse("all.toml", `
backend = "iptables-legacy"
ipv6 = "block"
exclude_namespaces = ["a", "b"]
host_netns = "/host/proc/1/ns/net"
runtime_handlers = ["kata"]
nri = { socket = "/run/x.sock", name = "other", index = "42" }
log.level = "debug"
log.format = "json"
[istio]
outbound_port = 1
inbound_port = 2
tunnel_port = 3
dns_port = 4
proxy_uid = 5
proxy_gid = 6
dns_capture = true
dual_stack = true
invalid_drop = true
owner_groups = [7, 8]
owner_groups_exclude = [9]
loopback_cidr = "127.0.0.0/8"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Backend: "iptables-legacy", RuntimeHandlers: []string{"kata"}, HostNetNS: "/host/proc/1/ns/net",
		NRI: NRI{Socket: "/run/x.sock", Name: "other", Index: "42"}, Log: Log{Level: "debug", Format: "json"}}
	i := &want.Istio
	i.IPv6, i.ExcludeNamespaces = "block", []string{"a", "b"}
	i.OutboundPort, i.InboundPort, i.TunnelPort, i.DNSPort, i.UID, i.GID = 1, 2, 3, 4, 5, 6
	i.DNSCapture, i.DualStack, i.InvalidDrop = true, true, true
	i.OwnerGroups, i.OwnerGroupsExclude = []uint32{7, 8}, []uint32{9}
	i.Loopback = netip.MustParsePrefix("127.0.0.0/8")
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	const file = `backend = "pf"
ipv6 = 6
sockets = "x"

[nri]
index = "1"
backend = "auto"
[istio]
outbound_port = 70000
proxy_uid = 0
dns_capture = "yes"
owner_groups_exclude = ["*"]
owner_groups = ["wheel"]
loopback_cidr = "10.0.0.0/8"
[nope]
a = 1
`
	_, err := Parse("bad.toml", file)
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v, want Problems", err)
	}
	want := `bad.toml:1: backend: "pf" is none of auto, iptables-nft, iptables-legacy
bad.toml:2: ipv6: incompatible types: TOML value has type int64; destination has type string
bad.toml:3: sockets: unknown key
bad.toml:6: nri.index: "1" is not two digits
bad.toml:7: nri.backend: unknown key: did you mean backend?
bad.toml:9: istio.outbound_port: 70000 is not between 1 and 65535
bad.toml:10: istio.proxy_uid: 0 is not between 1 and 4294967294
bad.toml:11: istio.dns_capture: incompatible types: TOML value has type string; destination has type boolean
bad.toml:12: istio.owner_groups_exclude: "*" would exclude everybody
bad.toml:13: istio.owner_groups: "wheel" is not a numeric group id
bad.toml:14: istio.loopback_cidr: "10.0.0.0/8": not within 127.0.0.0/8
bad.toml:15: nope: unknown key`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestProblemsOfOneKind(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"syntax":            {"backend = \nx = 1\n", "f.toml:1: backend: not TOML: expected value but found '\\n' instead"},
		"duplicate":         {"backend = \"auto\"\nbackend = \"auto\"\n", "f.toml:2: backend: not TOML: Key 'backend' has already been defined."},
		"value as table":    {"nri = 3\n", "f.toml:1: nri: is a table: write [nri]"},
		"dotted table":      {"\n\nfoo.bar = 3\n", "f.toml:3: foo: unknown key"},
		"shared port":       {"[istio]\noutbound_port = 15006\ninbound_port = 15006\n", "f.toml:3: istio.inbound_port: 15006 is istio.outbound_port already: two listeners cannot share a port"},
		"port of a default": {"istio.tunnel_port = 15006\n", "f.toml:1: istio.tunnel_port: 15006 is istio.inbound_port already: two listeners cannot share a port"},
		"pattern":           {"exclude_namespaces = [\"kube-*\", \"ok\", \" a\"]\n", "f.toml:1: exclude_namespaces: \"kube-*\" is no name of a namespace; there are no patterns here; \" a\" is no name of a namespace; there are no patterns here"},
		"no handler":        {"runtime_handlers = []\n", "f.toml:1: runtime_handlers: an empty list would refuse every pod of the mesh; \"\" is the runtime's default handler"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.toml", tt.file)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Reference)
	f.Add("nri = { socket = \"/a\" }\n[istio]\nowner_groups = [1,\"2\"]\n")
	f.Add("[istio.dns_port]\na=1\n[[nri]]\nname=\"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		config, err := Parse("f.toml", text)
		var problems Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("an error that is not Problems: %v", err)
		}
		if err == nil && config.Istio.OutboundPort == config.Istio.InboundPort {
			t.Fatal("accepted what check refuses")
		}
	})
}
