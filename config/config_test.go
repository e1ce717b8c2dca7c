// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/mesh"
	"github.com/meshnetd/meshnetd/rules/static"
)

var compare = cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Config{}, "Origin")}

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

// The example of an array of tables is commented out: it must be good, name every key, and say the default.
func TestReferenceExampleOfEveryList(t *testing.T) {
	var c Config
	for name, list := range lists(&c) {
		var text strings.Builder
		inside, documented := false, map[string]bool{}
		for line := range strings.Lines(Reference) {
			line, commented := strings.CutPrefix(line, "# ")
			inside = commented && (inside || line == "[["+name+"]]\n")
			if inside {
				key, _, _ := strings.Cut(line, " = ")
				documented[key] = true
			}
			if inside || !commented {
				text.WriteString(line)
			}
		}
		got, err := Parse("reference.toml", text.String())
		if found := map[string]int{"annotations": len(got.Annotations), "static": len(got.Static), "policy": len(got.Policies), "lockdown": len(got.Lockdowns)}; err != nil || found[name] != 1 {
			t.Fatalf("%s: the example gives %v, %v", name, found, err)
		}
		keys, _ := list.add()
		for key := range keys {
			if !documented[key] || !strings.Contains(Reference, "\n# "+key+" ") {
				t.Errorf("%s: key %s is not in the example and its explanation", name, key)
			}
		}
		if name != "annotations" {
			continue
		}
		if want := c.Annotations[0].Otherwise; got.Annotations[0].Otherwise != want || want != rules.Refuse {
			t.Errorf("%s: the example says otherwise = %q, the default is %q", name, got.Annotations[0].Otherwise, want)
		}
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
proxy_identity = "report"
proxy_identity_exempt = ["kserve-*", "ml"]
proxy_images = ["registry.example/istio/proxyv2:*"]
catch_up = "stop"
replace_outdated = true
on_drift = "report"
audit_interval = "1m30s"
cri_socket = "/run/cri.sock"
status_socket = ""
lock_dir = "/run/other"
nri = { socket = "/run/x.sock", name = "other", index = "42", required = true }
neighbours.hooks = "refuse"
kubelet.pods_api = "/run/pods.sock"
bypass.privileged = "refuse"
bypass.exempt = ["ops-*"]
log.level = "debug"
log.format = "json"
metrics.address = "[::1]:15990"
metrics.status = true
budget = { bytes = 2048, items = 17, rules = 129 }
[istio]
outbound_port = 1
inbound_port = 2
tunnel_port = 3
dns_port = 4
proxy_uid = 5
proxy_gid = 6
openshift = true
dns_capture = true
dual_stack = true
invalid_drop = true
owner_groups = [7, 8]
owner_groups_exclude = [9]
loopback_cidr = "127.0.0.0/8"
[mesh]
enabled = ["linkerd", "consul"]
[consul]
exclude_namespaces = ["c"]
ipv6 = "capture"
[kuma]
exclude_namespaces = ["d"]
ipv6 = "mesh"
[linkerd]
exclude_namespaces = ["e"]
control_plane_namespaces = ["f"]
ipv6 = ""
inbound_port = 10
outbound_port = 11
control_port = 12
admin_port = 13
proxy_uid = 14
proxy_gid = 15
skip_inbound = [16, "17-18"]
skip_outbound = ["19"]
redirect_ports = [20]
api_server = []
proxy_ipv6 = true
[[annotations]]
annotation = "a/b"
[[annotations]]
annotation = "c/*"
namespaces = ["shop", "team-*"]
allow = ["", "*", "80", "9000-9100", "10.0.0.0/8", "TPROXY"]
otherwise = "ignore"
[[static]]
name = "first"
namespaces = ["shop-*"]
labels = ["l", "m=n=o", "p="]
annotations = ["a/b=c"]
mode = "TPROXY"
proxy_uid = 30
proxy_gid = 31
proxy_containers = ["x", "y"]
proxy_ipv6 = true
ipv6 = "capture"
dns_port = 32
inbound_port = 33
include_inbound_ports = [34]
exclude_inbound_ports = ["35-36"]
outbound_port = 37
include_outbound_ports = [38]
exclude_outbound_ports = [39]
include_outbound_cidrs = ["10.0.0.0/8"]
exclude_outbound_cidrs = ["fd00::/8", "10.1.0.0/16"]
exclude_interfaces = ["eth1"]
exempt_uids = [0, 40]
[[static]]
name = "second"
labels = ["l"]
mode = "REDIRECT"
proxy_uid = 50
proxy_containers = ["x"]
dns_port = 51
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Backend: "iptables-legacy", RuntimeHandlers: []string{"kata"}, HostNetNS: "/host/proc/1/ns/net",
		ProxyIdentity: IdentityReport, IdentityExempt: []string{"kserve-*", "ml"}, ProxyImages: []string{"registry.example/istio/proxyv2:*"},
		CatchUp: CatchUpStop, ReplaceOutdated: true, OnDrift: DriftReport,
		AuditInterval: 90 * time.Second, CRISocket: "/run/cri.sock", StatusSocket: "", LockDir: "/run/other",
		Annotations: []rules.AnnotationPolicy{{Annotation: "a/b", Otherwise: rules.Refuse}, {Annotation: "c/*", Otherwise: rules.Ignore,
			Namespaces: []string{"shop", "team-*"}, Allow: rules.Allow("", "*", "80", "9000-9100", "10.0.0.0/8", "TPROXY")}},
		NRI: NRI{Socket: "/run/x.sock", Name: "other", Index: "42"}, Required: true, Hooks: HooksRefuse, PodsAPI: "/run/pods.sock", Bypass: BypassRefuse, BypassExempt: []string{"ops-*"}, Log: Log{Level: "debug", Format: "json"},
		Metrics: Metrics{Address: "[::1]:15990", Status: true}}
	want.Budget = rules.Budget{Bytes: 2048, Items: 17, Rules: 129}
	i := &want.Istio
	i.Budget = want.Budget
	i.WithoutIPv6, i.ExcludeNamespaces = "block", []string{"a", "b"}
	i.OutboundPort, i.InboundPort, i.TunnelPort, i.DNSPort, i.UID, i.GID = 1, 2, 3, 4, 5, 6
	i.DNSCapture, i.DualStack, i.InvalidDrop = true, true, true
	i.OpenShift, i.OwnerGroups, i.OwnerGroupsExclude = true, []uint32{7, 8}, []uint32{9}
	i.Loopback = netip.MustParsePrefix("127.0.0.0/8")
	want.Static = []static.Profile{{Name: "first", Namespaces: []string{"shop-*"}, Labels: []static.Term{{Key: "l", Any: true}, {Key: "m", Value: "n=o"}, {Key: "p"}},
		Annotations: []static.Term{{Key: "a/b", Value: "c"}}, ExcludeNamespaces: []string{"a", "b"}, TProxy: true, UID: 30, GID: 31, Proxies: []string{"x", "y"},
		ProxyIPv6: true, WithoutIPv6: rules.IPv6Capture, DNSPort: 32, InboundPort: 33, Inbound: []rules.PortRange{{First: 34, Last: 34}},
		InboundExclude: []rules.PortRange{{First: 35, Last: 36}}, OutboundPort: 37, OutboundPorts: []rules.PortRange{{First: 38, Last: 38}},
		OutboundPortsExclude: []rules.PortRange{{First: 39, Last: 39}}, Outbound: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		OutboundExclude:   []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.1.0.0/16")},
		ExcludeInterfaces: []string{"eth1"}, ExemptUIDs: []uint32{0, 40}},
		{Name: "second", Labels: []static.Term{{Key: "l", Any: true}}, ExcludeNamespaces: []string{"a", "b"}, UID: 50, Proxies: []string{"x"}, DNSPort: 51,
			WithoutIPv6: rules.IPv6Block}}
	want.Mesh.Enabled = []string{"linkerd", "consul"}
	want.Consul = consul.Defaults{Common: mesh.Common{Budget: want.Budget, ExcludeNamespaces: []string{"a", "b", "c"}, WithoutIPv6: rules.IPv6Capture}}
	want.Kuma = kuma.Defaults{Common: mesh.Common{Budget: want.Budget, ExcludeNamespaces: []string{"a", "b", "d"}, WithoutIPv6: rules.IPv6Mesh}}
	want.Linkerd = linkerd.Defaults{Common: mesh.Common{Budget: want.Budget, ExcludeNamespaces: []string{"a", "b", "e"}, WithoutIPv6: rules.IPv6Block}, ControlPlaneNamespaces: []string{"f"},
		InboundPort: 10, OutboundPort: 11, ControlPort: 12, AdminPort: 13, UID: 14, GID: 15, ProxyIPv6: true, RedirectPorts: []uint16{20},
		SkipInbound: []rules.PortRange{{First: 16, Last: 16}, {First: 17, Last: 18}}, SkipOutbound: []rules.PortRange{{First: 19, Last: 19}}}
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
	want := `bad.toml:1: backend: "pf" is none of auto, iptables, iptables-exec, iptables-nft, iptables-legacy, nftables
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
	const noAddress = " is neither an IP address with a port, such as 127.0.0.1:15990 or [::1]:15990, nor unix: and an absolute path"
	for name, tt := range map[string]struct{ file, want string }{
		"syntax":             {"backend = \nx = 1\n", "f.toml:1: backend: not TOML: expected value but found '\\n' instead"},
		"broken first key":   {"\"\\", "f.toml:1: not TOML: invalid escape in string '\\\x00'"},
		"duplicate":          {"backend = \"auto\"\nbackend = \"auto\"\n", "f.toml:2: backend: not TOML: Key 'backend' has already been defined."},
		"value as table":     {"nri = 3\n", "f.toml:1: nri: is a table: write [nri]"},
		"dotted table":       {"\n\nfoo.bar = 3\n", "f.toml:3: foo: unknown key"},
		"shared port":        {"[istio]\noutbound_port = 15006\ninbound_port = 15006\n", "f.toml:3: istio.inbound_port: 15006 is istio.outbound_port already: two listeners cannot share a port"},
		"port of a default":  {"istio.tunnel_port = 15006\n", "f.toml:1: istio.tunnel_port: 15006 is istio.inbound_port already: two listeners cannot share a port"},
		"namespace":          {"exclude_namespaces = [\"kube-*\", \"ok\", \" a\"]\n", "f.toml:1: exclude_namespaces: \"kube-*\" is no name of a namespace; there are no patterns here; \" a\" is no name of a namespace; there are no patterns here"},
		"inline tables":      {"\nannotations = [{annotation = \"a\"}]\n", "f.toml:2: annotations: is an array of tables: write [[annotations]] for each"},
		"one table":          {"[annotations]\nannotation = \"a\"\n", "f.toml:1: annotations: is an array of tables: write [[annotations]] for each"},
		"dotted list":        {"\nannotations.allow = []\n", "f.toml:2: annotations: is an array of tables: write [[annotations]] for each"},
		"nested list":        {"[[annotations.x]]\n", "f.toml:1: annotations: is an array of tables: write [[annotations]] for each"},
		"no duration":        {"audit_interval = \"30\"\n", "f.toml:1: audit_interval: \"30\": not a duration such as 30s or 5m"},
		"number as time":     {"audit_interval = 30\n", "f.toml:1: audit_interval: incompatible types: TOML value has type int64; destination has type string"},
		"too often":          {"audit_interval = \"999ms\"\n", "f.toml:1: audit_interval: \"999ms\": not between 1s and 24h"},
		"too seldom":         {"audit_interval = \"24h1s\"\n", "f.toml:1: audit_interval: \"24h1s\": not between 1s and 24h"},
		"exempt":             {"proxy_identity_exempt = [\"[\"]\n", "f.toml:1: proxy_identity_exempt: \"[\" is no pattern: not empty, * and ? stand for anything but a slash, [a-z] for one of a set, \\ takes away their meaning"},
		"images":             {"proxy_images = [\"\"]\n", "f.toml:1: proxy_images: \"\" is no pattern: not empty, * and ? stand for anything but a slash, [a-z] for one of a set, \\ takes away their meaning"},
		"identity":           {"proxy_identity = \"allow\"\n", "f.toml:1: proxy_identity: \"allow\" is none of refuse, report, off"},
		"drift":              {"on_drift = \"stop\"\n", "f.toml:1: on_drift: \"stop\" is none of repair, report"},
		"sockets":            {"cri_socket = \"unix:///a\"\nstatus_socket = \"a\"\n", "f.toml:1: cri_socket: \"unix:///a\" is not an absolute path\nf.toml:2: status_socket: \"a\" is not an absolute path"},
		"log format":         {"log.format = \"syslog\"\n", "f.toml:1: log.format: \"syslog\" is none of auto, journal, text, json"},
		"locks":              {"lock_dir = \"\"\n", "f.toml:1: lock_dir: \"\" is not an absolute path"},
		"metrics on status":  {"\nmetrics.address = \"unix:/run/meshnetd/meshnetd.sock\"\n", "f.toml:2: metrics.address: is status_socket already, which answers for metrics, too: leave it empty"},
		"status nowhere":     {"\nmetrics.status = true\n", "f.toml:2: metrics.status: there is no metrics.address to serve it at: status_socket has it in any case"},
		"metrics by path":    {"metrics.address = \"unix:run/m.sock\"\n", "f.toml:1: metrics.address: \"run/m.sock\" is not an absolute path"},
		"metrics by name":    {"metrics.address = \"localhost:15990\"\n", "f.toml:1: metrics.address: \"localhost:15990\"" + noAddress},
		"metrics on a port":  {"metrics.address = \":15990\"\n", "f.toml:1: metrics.address: \":15990\"" + noAddress},
		"metrics anywhere":   {"metrics.address = \"127.0.0.1:0\"\n", "f.toml:1: metrics.address: \"127.0.0.1:0\"" + noAddress},
		"unknown mesh":       {"\n[mesh]\nenabled = [\"istio\", \"isto\"]\n", "f.toml:3: mesh.enabled: \"isto\" is none of istio, consul, kuma, linkerd"},
		"no mesh":            {"mesh.enabled = []\n", "f.toml:1: mesh.enabled: an empty list would leave every pod without its rules: there is no [[static]] profile either"},
		"mesh twice":         {"mesh.enabled = [\"kuma\", \"istio\", \"kuma\"]\n", "f.toml:1: mesh.enabled: \"kuma\" is there twice"},
		"linkerd's ports":    {"[linkerd]\noutbound_port = 4143\n", "f.toml:2: linkerd.outbound_port: 4143 is linkerd.inbound_port already: two listeners cannot share a port"},
		"same port as Istio": {"[linkerd]\nproxy_gid = -1\ninbound_port = 15001\n", "f.toml:2: linkerd.proxy_gid: -1 is not between 0 and 4294967294"},
		"ipv6 of a mesh":     {"[consul]\nipv6 = \"drop\"\n", "f.toml:2: consul.ipv6: \"drop\" is none of mesh, capture, block"},
		"ranges":             {"[linkerd]\nskip_inbound = [1, \"2-1\"]\n", "f.toml:2: linkerd.skip_inbound: \"2-1\" is no port and no range of ports such as \"8000-8010\""},
		"a range of ports":   {"[linkerd]\nredirect_ports = [\"1-2\"]\n", "f.toml:2: linkerd.redirect_ports: 1 to 2 is not a port from 1 to 65535"},
		"no port":            {"[linkerd]\nredirect_ports = [0]\n", "f.toml:2: linkerd.redirect_ports: 0 is not a port from 1 to 65535"},
		"excluded by a mesh": {"[kuma]\nexclude_namespaces = [\"A\"]\n", "f.toml:2: kuma.exclude_namespaces: \"A\" is no name of a namespace; there are no patterns here"},
		"key of two tables":  {"[kuma]\nproxy_uid = 1\n", "f.toml:2: kuma.proxy_uid: unknown key: did you mean istio.proxy_uid?"},
		"no handler":         {"runtime_handlers = []\n", "f.toml:1: runtime_handlers: an empty list would refuse every pod of the mesh; \"\" is the runtime's default handler"},
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
	f.Add("[[annotations]]\nannotation=\"a\"\nallow=[\"1-2\"]\n[log]\n[[annotations]]\nannotation=\"b\"\notherwise=\"ignore\"\n")
	f.Add("audit_interval = \"1h\"\n[[annotations]]\nallow=\"\"\"\n[[annotations]]\n\"\"\"\n[annotations.x]\n[[annotations.y]]\n")
	f.Add("[istio.dns_port]\na=1\n[[nri]]\nname=\"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		config, err := Parse("f.toml", text)
		var problems Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("an error that is not Problems: %v", err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Line > strings.Count(text, "\n")+1 {
				t.Fatalf("line %d of %d: %s", p.Line, strings.Count(text, "\n")+1, p)
			}
		}
		if err == nil && config.Istio.OutboundPort == config.Istio.InboundPort {
			t.Fatal("accepted what check refuses")
		}
		for _, p := range config.Annotations {
			if p.Annotation == "" || p.Otherwise == "" {
				t.Fatalf("accepted a policy for nothing: %+v", p)
			}
		}
	})
}
