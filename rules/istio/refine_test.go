// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func users(pod rules.Pod, uid, gid int64) rules.Pod {
	pod = withProxy(pod)
	proxy := pod.Container("istio-proxy")
	proxy.UID, proxy.GID = &uid, &gid
	return pod
}

const overrides = "proxy.istio.io/overrides"

func TestRefine(t *testing.T) {
	ids := func(uid, gid uint32) func(*istio.Intent) {
		return func(in *istio.Intent) { in.UID, in.GID = uid, gid }
	}
	ports := func(in *istio.Intent) { in.OutboundPort, in.InboundPort, in.TunnelPort = 1, 2, 3 }
	ours := `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":1234,"runAsGroup":4321}}]}`
	for _, tt := range []struct {
		name string
		pod  rules.Pod
		want func(*istio.Intent)
	}{
		{"a proxy that says nothing", withProxy(injected()), nil},
		{"user and group", users(injected(), 2102, 3102), ids(2102, 3102)},
		{"user 0", users(injected(), 0, 1337), nil},
		{"group 0", users(injected(), 2102, 0), ids(2102, 1337)},
		{"largest id", users(injected(), 1<<32-2, 1<<32-2), ids(1<<32-2, 1<<32-2)},

		{"overrides", injected(overrides, ours), ids(1234, 4321)},
		{"overrides of an init container", injected(overrides, strings.Replace(ours, "containers", "initContainers", 1)), ids(1234, 4321)},
		{"overrides of another container", injected(overrides, strings.Replace(ours, "istio-proxy", "app", 1)), nil},
		{"overrides of one id", injected(overrides, `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":7}}]}`), ids(7, 1337)},
		{"overrides to 0", injected(overrides, `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":0,"runAsGroup":0}}]}`), nil},
		{"overrides without a context", injected(overrides, `{"containers":[{"name":"istio-proxy","image":"x"}],"initContainers":null}`), nil},
		{"overrides empty", injected(overrides, ""), nil},
		{"overrides of nothing", injected(overrides, "{}"), nil},
		{"arguments over overrides", withValidation(injected(overrides, ours), "-u", "5", "-g", "6"), ids(5, 6)},
		{"container over arguments", withValidation(users(injected(), 8, 9), "-u", "5", "-g", "6"), ids(8, 9)},
		{"user 0 leaves the arguments", withValidation(users(injected(), 0, 0), "-u", "5", "-g", "6"), ids(5, 6)},

		{"validation as injected", withValidation(injected(), "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT",
			"-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:info", "--run-validation", "--skip-rule-apply"), nil},
		{"short flags", withValidation(injected(), "-p", "1", "-z", "2", "-e", "3"), ports},
		{"short flags in one word", withValidation(injected(), "-p1", "-z2", "-e3"), ports},
		{"short flags with =", withValidation(injected(), "-p=1", "-z=2", "-e=3"), ports},
		{"long flags", withValidation(injected(), "--envoy-port", "1", "--inbound-capture-port", "2", "--inbound-tunnel-port", "3"), ports},
		{"long flags with =", withValidation(injected(), "--envoy-port=1", "--inbound-capture-port=2", "--inbound-tunnel-port=3"), ports},
		{"ids by long flags", withValidation(injected(), "--proxy-uid=5", "--proxy-gid", "6"), ids(5, 6)},
		{"the last one counts", withValidation(injected(), "-p", "9", "--envoy-port=8", "-p1", "-z", "2", "-e", "3"), ports},
		{"a flag that starts alike", withValidation(injected(), "--envoy-ports=1", "--proxy-uid-x", "2"), nil},
		{"a flag without value", withValidation(injected(), "-z", "15006", "-p"), nil},
		{"no arguments", withValidation(injected()), nil},

		{"dns", withProxy(injected(), "ISTIO_META_DNS_CAPTURE", "true"), func(in *istio.Intent) { in.DNSCapture = true }},
		{"dns 1", withProxy(injected(), "ISTIO_META_DNS_CAPTURE", "1"), func(in *istio.Intent) { in.DNSCapture = true }},
		{"dns false", withProxy(injected(), "ISTIO_META_DNS_CAPTURE", "false"), nil},
		{"dual stack", withProxy(injected(), "ISTIO_DUAL_STACK", "T"), func(in *istio.Intent) { in.DualStack = true }},
		{"invalid drop", withProxy(injected(), "INVALID_DROP", "TRUE"), func(in *istio.Intent) { in.InvalidDrop = true }},

		{"groups", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", "1, 2"), func(in *istio.Intent) { in.OwnerGroups = []uint32{1, 2} }},
		{"groups, trailing comma", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", "1,"), func(in *istio.Intent) { in.OwnerGroups = []uint32{1} }},
		{"every group", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", "*"), nil},
		{"64 groups", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", groupList(64)), func(in *istio.Intent) {
			for i := range uint32(64) {
				in.OwnerGroups = append(in.OwnerGroups, i+1)
			}
		}},
		{"groups excluded", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "888"), func(in *istio.Intent) { in.OwnerGroupsExclude = []uint32{888} }},
		{"no groups excluded", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", ""), nil},

		{"loopback", withProxy(injected(), "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.1/8"), func(in *istio.Intent) {
			in.Loopback = netip.MustParsePrefix("127.0.0.0/8")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := intentOf(t, mesh, tt.pod)
			if diff := cmp.Diff(standard(tt.want), got, compare); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func groupList(n int) string {
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprint(i+1))
	}
	return strings.Join(ids, ",")
}

// The empty list is nobody, which is not the same as no list.
func TestNoOwnerGroups(t *testing.T) {
	in := intentOf(t, mesh, withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", ""))
	if in.OwnerGroups == nil || len(in.OwnerGroups) != 0 {
		t.Errorf("got %#v, want an empty list", in.OwnerGroups)
	}
	for value, want := range map[string][]string{
		"":    {"-j RETURN"},
		"7,8": {"-m owner ! --gid-owner 7 -m owner ! --gid-owner 8 -j RETURN"},
		"*":   nil,
	} {
		plan := planOf(t, mesh, withProxy(injected(outboundRanges, ""), "ISTIO_OUTBOUND_OWNER_GROUPS", value), only4)
		got := between(t, chain(plan.V4, "nat", "ISTIO_OUTPUT"), "-m owner --gid-owner 1337 -j RETURN", "-d 127.0.0.1/32 -j RETURN")
		if diff := cmp.Diff(want, got, compare); diff != "" {
			t.Errorf("%q (-want +got):\n%s", value, diff)
		}
	}
}

// between returns the lines after one and before another.
func between(t *testing.T, lines []string, first, last string) []string {
	t.Helper()
	i, j := slices.Index(lines, first), slices.Index(lines, last)
	if i < 0 || j < i {
		t.Fatalf("not %q, then %q, in:\n%s", first, last, strings.Join(lines, "\n"))
	}
	return lines[i+1 : j]
}

// The rules of the exclusion stand between the proxy's own and the jump for name lookups.
func TestOwnerGroupsExcluded(t *testing.T) {
	plan := planOf(t, mesh, withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "888,999", "ISTIO_META_DNS_CAPTURE", "true"), only4)
	proxy, loopback := "-m owner --gid-owner 1337 -j RETURN", "-d 127.0.0.1/32 -j RETURN"
	want := []string{"-m owner --gid-owner 888 -j RETURN", "-m owner --gid-owner 999 -j RETURN", "-j ISTIO_OUTPUT_DNS"}
	if diff := cmp.Diff(want, between(t, chain(plan.V4, "nat", "ISTIO_OUTPUT"), proxy, loopback)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	both := planOf(t, mesh, withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "888", "ISTIO_OUTBOUND_OWNER_GROUPS", "7"), only4)
	want = []string{"-m owner ! --gid-owner 7 -j RETURN"} // with a list of groups, the excluded ones are not looked at
	if diff := cmp.Diff(want, between(t, chain(both.V4, "nat", "ISTIO_OUTPUT"), proxy, loopback)); diff != "" {
		t.Errorf("both (-want +got):\n%s", diff)
	}
}

// The range replaces 127.0.0.1/32 wherever that stands, in IPv4 only.
func TestLoopbackRange(t *testing.T) {
	pod := withProxy(injected(mode, "TPROXY"), "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/8", "ISTIO_DUAL_STACK", "true")
	plan := planOf(t, mesh, pod, first4)
	if text := plan.V4.String(); strings.Contains(text, "127.0.0.1/32") || strings.Count(text, "-d 127.0.0.0/8") != 6 {
		t.Errorf("IPv4:\n%s", text)
	}
	if text := plan.V6.String(); strings.Contains(text, "127.0.0") || strings.Count(text, "-d ::1/128") != 6 {
		t.Errorf("IPv6:\n%s", text)
	}
}

func TestRefineNotes(t *testing.T) {
	plan := planOf(t, mesh, withProxy(injected(), "ISTIO_META_DNS_CAPTURE", "yes", "ISTIO_DUAL_STACK", "", "INVALID_DROP", "on"), only4)
	want := []string{
		`container istio-proxy: ISTIO_META_DNS_CAPTURE="yes" is no boolean and counts as false`,
		`container istio-proxy: ISTIO_DUAL_STACK="" is no boolean and counts as false`,
		`container istio-proxy: INVALID_DROP="on" is no boolean and counts as false`,
	}
	if diff := cmp.Diff(want, plan.Notes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What the proxy's environment does not name is off, whatever the node's configuration says; without the
// proxy the configuration is all there is.
func TestEnvironmentOverConfiguration(t *testing.T) {
	d := istio.Standard()
	d.DNSCapture, d.DualStack, d.InvalidDrop = true, true, true
	m := istio.New(d)
	if in := intentOf(t, m, injected()); !in.DNSCapture || !in.DualStack || !in.InvalidDrop {
		t.Errorf("without the container: %+v", in)
	}
	if in := intentOf(t, m, withProxy(injected())); in.DNSCapture || in.DualStack || in.InvalidDrop {
		t.Errorf("with the container: %+v", in)
	}
}

// What the injector was asked to give the proxy counts before the proxy is known, where it has more captured.
func TestProxyConfig(t *testing.T) {
	const key = "proxy.istio.io/config"
	for config, want := range map[string][3]bool{ // DNS capture, dual stack, invalid drop
		"proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n  X: y\nconcurrency: 2": {true, false, false},
		`{"proxyMetadata":{"ISTIO_DUAL_STACK":"1","INVALID_DROP":"T"}}`:              {false, true, true},
		"proxyMetadata: {ISTIO_META_DNS_CAPTURE: yes, ISTIO_DUAL_STACK: ''}":         {},
		"proxyMetadata:":                        {},
		"holdApplicationUntilProxyStarts: true": {},
		"":                                      {},
	} {
		in := intentOf(t, mesh, injected(key, config))
		if got := [3]bool{in.DNSCapture, in.DualStack, in.InvalidDrop}; got != want {
			t.Errorf("%q: %v", config, got)
		}
	}
	for config, problem := range map[string]string{
		"proxyMetadata: [ISTIO_DUAL_STACK]":         "proxyMetadata (line 1) is not an object",
		"proxyMetadata: {ISTIO_DUAL_STACK: [true]}": "proxyMetadata.ISTIO_DUAL_STACK (line 1) is not a text",
		"proxyMetadata: {":                          "not YAML",
		"%TAG ! x\n---\nproxyMetadata: {}":          "begins with %",
		"- proxyMetadata":                           "is not an object",
	} {
		if d := mesh.Decide(injected(key, config)); d.Reason != rules.ReasonBadInput || !strings.Contains(d.Detail, "annotation "+key) || !strings.Contains(d.Detail, problem) {
			t.Errorf("%q: %s (%s)", config, d.Reason, d.Detail)
		}
	}
	if d := mesh.Decide(injected(key, "x: "+strings.Repeat("y", 20<<10))); d.Reason != rules.ReasonOverBudget {
		t.Errorf("20 KiB: %s (%s)", d.Reason, d.Detail)
	}
}

// The injector writes the proxy's variables into istio-validation, too, where nobody reads lists.
func TestListsOfValidation(t *testing.T) {
	pod := withValidation(withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", groupList(64)))
	pod.Containers[0].Env = map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS": groupList(250)}
	if in := intentOf(t, mesh, pod); len(in.OwnerGroups) != 64 {
		t.Errorf("got %v", in.OwnerGroups)
	}
}

func TestListsWithoutEffect(t *testing.T) {
	for list, want := range map[string]bool{"8080": true, "15020,8080": true, "15020": false, "15090,15021,15020": false, "": false} {
		for include, noted := range map[string]bool{"80,8080": want, "*": false, "": false} {
			notes := planOf(t, mesh, injected(inboundExcluded, list, inboundPorts, include), only4).Notes
			if got := slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "has no effect beside") }); got != noted {
				t.Errorf("exclude %q, include %q: %q", list, include, notes)
			}
		}
	}
}

func TestRefineRejected(t *testing.T) {
	const env, arg = "container istio-proxy environment ", "container istio-validation argument "
	const groups, exclude, loopback = "ISTIO_OUTBOUND_OWNER_GROUPS", "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
	tooWide := `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":4294967295}}]}`
	negative := `{"initContainers":[{"name":"istio-proxy","securityContext":{"runAsGroup":-1}}]}`
	noNumber := `{"containers":[{"name":"istio-proxy","securityContext":{"runAsUser":"x"}}]}`
	for _, tt := range []struct {
		name                  string
		pod                   rules.Pod
		place, value, problem string
	}{
		{"argument 0", withValidation(injected(), "-p", "0"), arg + "-p", "0", "not a number from 1 to 65535"},
		{"argument no number", withValidation(injected(), "--inbound-capture-port=x"), arg + "-z", "x", "not a number from 1 to 65535"},
		{"argument too large", withValidation(injected(), "-e", "65536"), arg + "-e", "65536", "not a number from 1 to 65535"},
		{"argument empty", withValidation(injected(), "-u", ""), arg + "-u", "", "not a number from 1 to "},
		{"argument no id", withValidation(injected(), "-g4294967295"), arg + "-g", "4294967295", "not a number from 1 to 4294967294"},
		{"arguments alike", withValidation(injected(), "-p", "15006"), "proxy ports", "15006", "outbound and inbound listener cannot share a port"},

		{"overrides cut off", injected(overrides, `{"containers":`), "annotation " + overrides, `{"containers":`,
			"not JSON at byte 14: unexpected end of JSON input"},
		{"overrides of no id", injected(overrides, tooWide), "annotation " + overrides, tooWide, "4294967295 is not a user or group id"},
		{"overrides negative", injected(overrides, negative), "annotation " + overrides, negative, "-1 is not a user or group id"},
		{"overrides of another type", injected(overrides, noNumber), "annotation " + overrides, noNumber, "containers.securityContext.runAsUser before byte 71 is a string"},

		{"65 groups", withProxy(injected(), groups, groupList(65)), env + groups, groupList(65), "65 groups are too many: 64 at most"},
		{"group no id", withProxy(injected(), groups, "4294967295"), env + groups, "4294967295", `"4294967295" is not a`},
		{"everybody excluded", withProxy(injected(), exclude, "*"), env + exclude, "*", `"*" cannot be excluded: it would leave nobody`},

		{"loopback no range", withProxy(injected(), loopback, "127.0.0.1"), env + loopback, "127.0.0.1", "not a CIDR such as 127.0.0.1/32"},
		{"loopback empty", withProxy(injected(), loopback, ""), env + loopback, "", "not a CIDR such as 127.0.0.1/32"},
		{"loopback too wide", withProxy(injected(), loopback, "127.0.0.0/7"), env + loopback, "127.0.0.0/7", "not within 127.0.0.0/8"},
		{"loopback elsewhere", withProxy(injected(), loopback, "10.0.0.0/8"), env + loopback, "10.0.0.0/8", "not within 127.0.0.0/8"},
		{"loopback of IPv6", withProxy(injected(), loopback, "::1/128"), env + loopback, "::1/128", "not within 127.0.0.0/8"},
	} {
		t.Run(tt.name, func(t *testing.T) { rejected(t, tt.pod, tt.place, tt.value, tt.problem) })
	}
}
