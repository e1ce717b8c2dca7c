// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
)

// A list that is asked about an object would refuse every pod of the mesh, with words that help nobody.
func TestObjectsHaveNoItemsToAllow(t *testing.T) {
	const kuma, consul = "traffic.kuma.io/transparent-proxy-config", "consul.hashicorp.com/redirect-traffic-config"
	table := func(annotation, more string) string {
		return fmt.Sprintf("[[annotations]]\nannotation = %q\n%s\n", annotation, more)
	}
	for name, tt := range map[string]struct{ file, want string }{
		"Consul's":                  {table(consul, `allow = ["80"]`), "a.toml:3: annotations[0].allow: annotation " + consul + " is no list"},
		"Kuma's":                    {table(kuma, `allow = ["80"]`), "a.toml:3: annotations[0].allow: annotation " + kuma + " is no list"},
		"a pattern":                 {table("consul.hashicorp.com/*", `allow = ["80"]`), consul + " is no list"},
		"nothing allowed":           {table(kuma, "allow = []"), ""},
		"allowed all the same":      {table(kuma, "allow = [\"80\"]\notherwise = \"allow\""), ""},
		"other annotations":         {table("traffic.kuma.io/exclude-*", `allow = ["80"]`), ""},
		"never asked":               {table(kuma, `otherwise = "allow"`) + table("traffic.kuma.io/*", `allow = ["80"]`), ""},
		"asked of other namespaces": {table(kuma, "namespaces = [\"a\"]\notherwise = \"allow\"") + table("traffic.kuma.io/*", `allow = ["80"]`), "annotations[1].allow: "},
	} {
		_, err := Parse("a.toml", tt.file)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
