// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

func names(meshes []rules.Mesh) string {
	var all []string
	for _, mesh := range meshes {
		all = append(all, mesh.Name())
	}
	return strings.Join(all, " ")
}

// What is switched off is not asked, and its rules are known all the same.
func TestMeshesOfTheConfiguration(t *testing.T) {
	const profile = "[[static]]\nname = \"house\"\nlabels = [\"a\"]\nproxy_uid = 4000\nproxy_containers = [\"p\"]\ndns_port = 5353\n"
	whole := Node(config.Default()).Footprint()
	for _, tt := range []struct{ text, asked, off string }{
		{"", "istio consul kuma linkerd", "static"},
		{"mesh.enabled = [\"linkerd\", \"istio\"]\n", "istio linkerd", "consul kuma static"},
		{"mesh.enabled = [\"istio\"]\n" + profile, "istio house", "consul kuma linkerd"},
	} {
		cfg, err := config.Parse("a.toml", tt.text)
		if err != nil {
			t.Fatal(err)
		}
		n := Node(cfg)
		if names(n.Meshes) != tt.asked || names(n.Disabled) != tt.off {
			t.Errorf("%q: asked %q, off %q", tt.text, names(n.Meshes), names(n.Disabled))
		}
		have, want := n.Footprint().Chains, slices.Clone(whole.Chains)
		if slices.Sort(have); !slices.Equal(have, slices.Sorted(slices.Values(want))) {
			t.Errorf("%q: knows %v, want %v", tt.text, have, want)
		}
	}
}
