// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backend

import (
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// modulesOf are the kernel's modules behind what iptables calls a match or a target: those of iptables, and of nf_tables' own kind.
var modulesOf = map[string][]string{
	"tcp": {"xt_tcpudp"}, "udp": {"xt_tcpudp"}, "multiport": {"xt_multiport"}, "owner": {"xt_owner"}, "comment": {"xt_comment"}, "mark": {"xt_mark"},
	"conntrack": {"xt_conntrack", "nft_ct"}, "connmark": {"xt_connmark", "nft_ct"},
	"REDIRECT": {"xt_REDIRECT", "nft_redir"}, "DNAT": {"xt_nat", "nft_nat"}, "TPROXY": {"xt_TPROXY", "nft_tproxy"}, "CT": {"xt_CT", "nft_ct"},
	"MARK": {"xt_mark"}, "CONNMARK": {"xt_connmark", "nft_ct"}, "REJECT": {"ipt_REJECT", "ip6t_REJECT", "nft_reject_inet"},
}

// Modules returns the kernel's modules that the rules of a plan can need, by any backend.
func Modules(plan rules.Plan) []string {
	var needed []string
	for _, word := range extensions(plan) {
		needed = append(needed, modulesOf[word]...)
	}
	slices.Sort(needed)
	return slices.Concat([]string{"nf_tables", "nft_compat", "nf_nat", "nf_conntrack", "nft_chain_nat", "ip_tables", "iptable_nat"}, slices.Compact(needed))
}

// extensions returns the matches and targets of a plan that are not iptables' own.
func extensions(plan rules.Plan) (words []string) {
	for _, rs := range plan.Rulesets() {
		for r := range rs.All() {
			before := ""
			for _, word := range strings.Fields(r.String()) {
				_, verdict := r.Target.(rules.Verdict)
				_, jump := r.Target.(rules.Jump)
				if before == "-m" || before == "-j" && !verdict && !jump {
					words = append(words, word)
				}
				before = word
			}
		}
	}
	return words
}
