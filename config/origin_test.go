// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOrigin(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                   nil,
		"ipv6 = \"block\"\n": {"ipv6": "a.toml:1", "consul.ipv6": "a.toml:1", "kuma.ipv6": "a.toml:1", "linkerd.ipv6": "a.toml:1"},
		"ipv6 = \"block\"\nkuma.ipv6 = \"mesh\"\n":                            {"ipv6": "a.toml:1", "consul.ipv6": "a.toml:1", "kuma.ipv6": "a.toml:2", "linkerd.ipv6": "a.toml:1"},
		"kuma.ipv6 = \"mesh\"\n":                                              {"kuma.ipv6": "a.toml:1"},
		"# a comment\n\nistio.dns_capture = true\n[log]\nlevel = \"debug\"\n": {"istio.dns_capture": "a.toml:3", "log.level": "a.toml:5"},
		"[istio]\n\nowner_groups = [\n 1,\n 2]\nproxy_uid = 5\n[[annotations]]\nannotation = \"x\"\n": {
			"istio.owner_groups": "a.toml:3", "istio.proxy_uid": "a.toml:6"},
	} {
		c, err := Parse("a.toml", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.Origin); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if Default().Origin != nil {
		t.Error("the default configuration is set somewhere")
	}
}
