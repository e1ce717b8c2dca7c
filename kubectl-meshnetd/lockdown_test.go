// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/status"
)

// What lockdowns lack on several nodes is one list; a node that does not answer is named, and the exit code says so.
func TestLockdown(t *testing.T) {
	lacking := func(namespace, value string) http.Handler {
		return telling(status.Status{Lacks: []status.Lack{{Namespace: namespace, Lockdown: "/etc/meshnetd/meshnetd.toml:7", Key: "allow", Value: value, Pods: []string{"web"}}},
			LacksMore: []string{namespace}})
	}
	f := &fake{nodes: []string{"a", "b", "c"}, daemons: map[string]http.Handler{"a": lacking("shop", "10.0.0.4/32:1/tcp"), "b": lacking("shop", "10.0.0.5/32:1/tcp"), "c": lacking("pay", "10.0.0.9/32:1/tcp")}}
	code, out, errs := f.asked(t, "lockdown", "-n", "shop", "--parallel", "1")
	if diff := cmp.Diff(`# [[lockdown]] of /etc/meshnetd/meshnetd.toml:7 would let these pass, beside what it does today, with:
allow = [
  "10.0.0.4/31:1/tcp", # shop/web
]
# more was counted in namespace shop than is remembered
`, out); code != 0 || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s%s", code, diff, errs)
	}
	f.daemons["b"] = unreachable
	if code, out, errs = f.asked(t, "lockdown", "-A", "-o", "json"); code != exitFailed || !strings.Contains(out, `"10.0.0.9/32:1/tcp"`) || !strings.Contains(errs, "node b") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}
