// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// What rules of a lockdown have counted is read from whatever holds them, and nothing else is.
func TestCounts(t *testing.T) {
	const chains = "for t in PROGRAMS; do $t -N MESHNETD_COUNT_0_OUT; $t -A MESHNETD_COUNT_0_OUT -o lo -p udp --dport 10 -j RETURN; $t -A MESHNETD_COUNT_0_OUT -p udp -j CONNMARK --set-xmark 7; " +
		"$t -N MESHNETD_LOCK_1_OUT; $t -A MESHNETD_LOCK_1_OUT -p udp --dport 11 -m conntrack --ctstate INVALID -j DROP; $t -A MESHNETD_LOCK_1_OUT -p udp --dport 10 -j REJECT; " +
		"$t -N OTHER; $t -A OTHER -p udp; $t -A OUTPUT -j MESHNETD_COUNT_0_OUT; $t -A OUTPUT -j OTHER; $t -A OUTPUT -j MESHNETD_LOCK_1_OUT; done; "
	const native = "nft 'add table inet meshnetd; add chain inet meshnetd out { type filter hook output priority 0; }; " +
		"add rule inet meshnetd out meta nfproto ipv4 udp dport 9 counter comment \"MESHNETD_COUNT_0_UDP: -p udp\"; " +
		"add rule inet meshnetd out meta nfproto ipv6 udp dport 9 counter comment \"MESHNETD_COUNT_0_UDP: -p udp\"; " +
		"add rule inet meshnetd out udp dport 10 counter reject comment \"MESHNETD_LOCK_1_UDP: -p udp -j REJECT\"; " +
		"add rule inet meshnetd out udp dport 9 counter comment \"MESHNETD_OTHER: -p udp\"'; "
	const send = "ip link set lo up; for i in 1 2 3; do echo >/dev/udp/127.0.0.1/9; done; echo >/dev/udp/::1/9; echo >/dev/udp/127.0.0.1/10 || true"
	for name, tt := range map[string]struct {
		setup  string
		legacy bool
	}{
		"iptables-nft":    {strings.ReplaceAll(chains, "PROGRAMS", "iptables-nft ip6tables-nft"), false},
		"iptables-legacy": {strings.ReplaceAll(chains, "PROGRAMS", "iptables-legacy ip6tables-legacy"), true},
		"nftables":        {native, false},
	} {
		t.Run(name, func(t *testing.T) {
			pod := nstest.New(t)
			pod.Run(t, "bash", "-ec", tt.setup+send)
			ns, err := netns.Open(pod.Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			got, err := (&Tables{variant: variant{legacy: tt.legacy}}).Counts(t.Context(), ns)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]uint64{"MESHNETD_COUNT_0_UDP": 4, "MESHNETD_LOCK_1_UDP": 1}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
