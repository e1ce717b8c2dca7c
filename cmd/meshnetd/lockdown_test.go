// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/status"
)

// The command prints what is lacking, of all namespaces or of those that are named.
func TestLockdownCommand(t *testing.T) {
	lack := func(namespace, value string) status.Lack {
		return status.Lack{Namespace: namespace, Lockdown: "m.toml:7", Key: "allow", Value: value, Pods: []string{"web"}}
	}
	socket := serving(t, func() status.Status {
		return status.Status{Lacks: []status.Lack{lack("shop", "10.0.0.4/32:1/tcp"), lack("pay", "10.0.0.5/32:1/tcp")}, LacksMore: []string{"pay"}}
	})
	for args, want := range map[string]string{
		"":       "allow = [\n  \"10.0.0.4/31:1/tcp\", # shop/web, pay/web\n]\n# more was counted in namespace pay than",
		"sh*":    "allow = [\n  \"10.0.0.4/32:1/tcp\", # shop/web\n]\n",
		"none":   "# nothing is known",
		"--json": `"value": "10.0.0.4/31:1/tcp"`,
	} {
		code, out, err := execute(t, "", append([]string{"lockdown", "--socket", socket, "--config", testdata("default.toml")}, strings.Fields(args)...)...)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d, %v\n%s", args, code, err, out)
		}
	}
	for args, want := range map[string]string{"a b": "accepts at most 1 arg", "sh[op": "is no pattern", "shop/web": "name a namespace"} {
		if code, out, err := execute(t, "", append([]string{"lockdown"}, strings.Fields(args)...)...); code != exitBadConfig || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit %d, %v\n%s", args, code, err, out)
		}
	}
}
