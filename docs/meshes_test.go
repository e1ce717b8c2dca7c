// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

// The page's table of IPv6 is what the meshes do.
func TestIPv6Table(t *testing.T) {
	c, page := config.Default(), read(t, "meshes.md")
	for mesh, tt := range map[string]struct {
		key   string
		way   rules.WithoutIPv6
		speak bool
	}{
		"Istio": {"ipv6", c.Istio.WithoutIPv6, c.Istio.DualStack}, "Consul": {"consul.ipv6", c.Consul.WithoutIPv6, false},
		"Kuma": {"kuma.ipv6", c.Kuma.WithoutIPv6, true}, "Linkerd": {"linkerd.ipv6", c.Linkerd.WithoutIPv6, c.Linkerd.ProxyIPv6},
	} {
		says := "no: around the proxy"
		if tt.speak {
			says = "yes: captured"
		}
		if tt.way != rules.IPv6Mesh {
			t.Errorf("%s: %s is not what the page says of all", mesh, tt.way)
		}
		found := false
		for line := range strings.Lines(page) {
			found = found || strings.HasPrefix(line, "| "+mesh+" |") && strings.HasSuffix(line, "| "+says+" | `"+tt.key+"` |\n")
		}
		if !found {
			t.Errorf("%s: no line with %q and %s", mesh, says, tt.key)
		}
	}
}
