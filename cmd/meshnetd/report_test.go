// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/status"
)

func TestReport(t *testing.T) {
	why := status.Explanation{NotCaptured: []status.Gap{{What: "UDP <of all kinds>"}}}
	different := status.Verdict{Result: status.Different, Differences: []string{"a rule is missing"}}
	socket := daemonWith(t, pod("shop", "cart", "a", told{why: why, verify: whole}), pod("shop", "<b>db</b>", "b", told{why: why, verify: different}),
		pod("shop", "ended", "c", told{verify: status.Verdict{Result: status.Gone}}))
	code, page, err := execute(t, "", "report", "--socket", socket, "--config", testdata("default.toml"))
	if code != 0 || err != nil {
		t.Fatalf("exit %d, %v", code, err)
	}
	for text, want := range map[string]bool{"shop/cart": true, "shop/&lt;b&gt;db&lt;/b&gt;": true, "a rule is missing": true, "UDP &lt;of all kinds&gt;": true,
		"shop/ended": false, "<b>": false} {
		if strings.Contains(page, text) != want {
			t.Errorf("%q on the page: %t, want %t", text, !want, want)
		}
	}
	if code, page, err := execute(t, "", "report", "--socket", socket+"-none", "--config", testdata("default.toml")); code != exitFailed || page != "" || err == nil {
		t.Errorf("without a daemon: exit %d, %v, %q", code, err, page)
	}
}
