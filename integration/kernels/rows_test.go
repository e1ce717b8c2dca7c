// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernels

import (
	"fmt"
	"strings"
	"testing"
)

// tested are the packages whose tests run in whole kernels.
var tested = []string{"daemon/backend", "daemon/netns", "daemon/nftables", "integration", "integration/packets", "integration/differential"}

func machines() []machine {
	const (
		nothing = "nothing"
		xtables = `nft_compat|xt_.*|x_tables|ip6?_tables|ip6?table_.*|ip6?t_.*`
		legacy  = `ip6?_tables|ip6?table_.*`
		native  = "modprobe -a nf_tables nft_ct nft_nat nft_redir nft_reject_inet nft_tproxy nft_chain_nat"
	)
	all := []machine{ // the first two are CI's
		{name: "5.10", suite: "bullseye", lacks: nothing, rows: whole()},
		// As RHEL 10 has it.
		{name: "5.10 without xt_*", suite: "bullseye", lacks: "nft_compat, xt_*, iptable_*", without: xtables, rows: writes("takes nftables")},
	}
	all = append(all,
		machine{name: "7 without xt_*", suite: "sid", lacks: "nft_compat, xt_*, iptable_*", without: xtables, rows: writes("takes nftables")},
		// The rules of Istio would do without it; those of Linkerd and Kuma are not written by iptables then.
		machine{name: "6.12 without xt_comment", suite: "trixie", lacks: "xt_comment", without: "xt_comment", rows: writes("takes nftables", `backend "iptables" cannot be used`)},
		machine{name: "6.12 without iptable_*", suite: "trixie", lacks: "iptable_*", without: legacy, rows: writes("takes iptables.")},
		machine{name: "6.1 without nf_tables", suite: "bookworm", lacks: "nf_tables", without: `nf_tables.*|nft_.*`,
			rows: writes("takes iptables-legacy", "Pods with a user namespace of their own (hostUsers: false) are refused")},
		machine{name: "6.12 without IPv6", suite: "trixie", lacks: "IPv6 (ipv6.disable=1)", append: "ipv6.disable=1",
			rows: writes("takes iptables.")},
		machine{name: "6.12 that loads no modules", suite: "trixie", lacks: "all modules (kernel.modules_disabled)", setup: "modprobe veth; echo 1 >/proc/sys/kernel/modules_disabled",
			rows: []row{
				doctor("No module can be loaded any more, and these are not there: nf_tables"),
				{name: "pod", command: "pod.sh REDIRECT auto", fails: true, want: []string{"nothing on this node can write the rules"}},
			}},
		// What doctor says to load.
		machine{name: "6.12 that loads no more modules", suite: "trixie", lacks: "modules, but those of nf_tables that doctor names", setup: native + " veth; echo 1 >/proc/sys/kernel/modules_disabled",
			rows: writes("takes nftables")},
	)
	for _, m := range []machine{{name: "arm64", suite: "bookworm", arm64: true}, {name: "6.1", suite: "bookworm"}, {name: "6.12", suite: "trixie", node: true}, {name: "7", suite: "sid", node: true}} {
		m.rows, m.lacks = whole(), nothing
		if m.node {
			m.rows = append(m.rows, pods("runc"), pods("crun"))
		}
		all = append(all, m)
	}
	return all
}

func doctor(want ...string) row {
	// It warns of the runtime, which is not there.
	return row{name: "doctor", command: "uname -r; meshnetd doctor | sed -n '/^kernel$/,/^$/p'", want: want}
}

// writes is that a pod gets its rules with less of a kernel.
func writes(want ...string) []row {
	return []row{doctor(want...), pod("REDIRECT", "auto"), pod("TPROXY", "auto")}
}

// pod is one whose packets end where its rules say.
func pod(mode, backend string, environment ...string) row {
	command := strings.Join(append(environment, "pod.sh", mode, backend), " ")
	return row{name: fmt.Sprintf("pod %s %s", mode, backend), command: command, want: []string{"rules applied and verified", " as the rules say, 0 wrong"}}
}

// tests are those of a package whose names match.
func tests(name, pkg, pattern string, environment ...string) row {
	command := "cd /module/" + pkg + " && MESHNETD_REQUIRE=1 MESHNETD_TEST_RUN=guest"
	for _, variable := range environment {
		command += " " + variable
	}
	return row{name: name, command: fmt.Sprintf("%s ./package.test -test.timeout 30m -test.run '%s'", command, pattern), want: []string{"PASS"}}
}

// pods are those of a containerd that has cgroup v2 alone: no container is created after a flush, and what the next one sends comes
// to the proxy.
func pods(runc string) row {
	return tests("pods of a containerd, by "+runc, "integration", "^TestNoContainerAfterAFlush$",
		"MESHNETD_RUNTIMES=/runtimes", "MESHNETD_LAB=containerd-2.4", "MESHNETD_RUNC="+runc)
}

func whole() []row {
	const dualStack = "ISTIO_DUAL_STACK=true"
	rows := []row{
		doctor("takes iptables.", `backend "iptables" writes every kind`, `backend "iptables-exec" writes every kind`,
			`backend "nftables" writes every kind`, "IPv6 rules can be written.", "(hostUsers: false) can be served"),
		pod("REDIRECT", "iptables", dualStack), pod("TPROXY", "iptables", dualStack),
		pod("REDIRECT", "nftables", dualStack), pod("TPROXY", "nftables", dualStack),
		tests("generation", "daemon/nftables", "^(TestGeneration|TestOneTransaction|TestNativeInAUserNamespace)$"),
		tests("conformance", "integration/packets", "^TestConformance$/^iptables$/^(tproxy_dualstack|dns_dualstack|drop_invalid_tproxy|all_together_redirect)$"),
	}
	if testing.Short() {
		return rows
	}
	return append(rows,
		tests("drift", "integration/packets", "^(TestDriftIsSeenAndMended|TestForeignRulesStay)$/^iptables$/^(rule_in_front|chain_emptied|route|port_changed|default|dns_tproxy)$"),
		tests("traffic", "integration/packets", "^(TestRedirectedTraffic|TestTProxyTraffic)$/^iptables$"),
		tests("replacement under traffic", "daemon/nftables", "^TestNativeReplacesWithoutAGap$"),
		tests("one backend after the other", "daemon/backend", "^TestOneAfterTheOther$/^(iptables|nftables)_then_"),
		tests("namespaces", "daemon/netns", "^(TestOpenRefuses|TestDoIsInside|TestOwnUsers|TestHostFromWithinAContainer)$"),
		tests("differential", "integration/differential", "^TestRandomPlans$", "MESHNETD_PAIRS=200"),
	)
}
