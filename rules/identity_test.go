// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func id(n int64) *int64 { return &n }

// enrolled is a pod whose injector added a proxy and a validator.
func enrolled() rules.Decision {
	return rules.Decision{Action: rules.Enrol, Proxy: rules.Proxy{UID: 1337, GID: 1338, Images: []string{"registry.example/istio/proxyv2:*", "*@sha256:00"},
		Containers: []rules.Sidecar{{Name: "istio-proxy", Command: []string{"pilot-agent", "proxy"}}, {Name: "house-proxy"}, {Name: "simple", Command: []string{"simple"}}}}}
}

const exempting = ", or ask whoever runs the node to exempt the namespace (proxy_identity_exempt in the configuration)"

// A name is nobody's proof, nor is the identity of a user who is not known.
func TestImpostor(t *testing.T) {
	sentence := func(runs, give string) string {
		return "container app runs as " + runs + ", as the proxy does: what it sends would go around the mesh. Give it another " + give + exempting
	}
	many := slices.Repeat([]uint32{7}, 129)
	runs := func(name string, args ...string) rules.Container {
		return rules.Container{Name: name, Args: args, UID: id(1337)}
	}
	instead := func(name, what, of string) string {
		return "container " + name + " has the proxy's name and identity, and runs \"" + what + "\" instead of \"" + of +
			"\": what it sends would go around the mesh. Leave the container as the injector makes it" + exempting
	}
	headless := func(args ...string) rules.Container { c := runs("istio-proxy", args...); c.ArgsOnly = true; return c }
	image := func(name string) rules.Container {
		c := runs("istio-proxy", "/usr/local/bin/pilot-agent", "proxy")
		c.Image = name
		return c
	}
	foreign := func(name string) string {
		return "container istio-proxy has the proxy's name and identity, and its image \"" + name + "\" is none of proxy_images in the node's " +
			"configuration: what it sends would go around the mesh. Leave the container as the injector makes it" + exempting
	}
	groups := "container app has the proxy's group 1338 among its additional groups, as a pod's fsGroup or supplementalGroups make it, or its image: " +
		"what a setgid file of that group sends would go around the mesh. Take the group out of them" + exempting
	for _, tt := range []struct {
		name string
		c    rules.Container
		want string
	}{
		{"unknown", rules.Container{Name: "app"}, ""},
		{"others", rules.Container{Name: "app", UID: id(1000), GID: id(1000), Groups: []uint32{1000, 1337}}, ""},
		{"each other's", rules.Container{Name: "app", UID: id(1338), GID: id(1337)}, ""},
		{"user", rules.Container{Name: "app", UID: id(1337), GID: id(0)}, sentence("user 1337", "runAsUser")},
		{"user, group unknown", rules.Container{Name: "app", UID: id(1337)}, sentence("user 1337", "runAsUser")},
		{"group", rules.Container{Name: "app", UID: id(0), GID: id(1338), Groups: []uint32{1338}}, sentence("group 1338", "runAsGroup")},
		{"both", rules.Container{Name: "app", UID: id(1337), GID: id(1338)}, sentence("user 1337 and group 1338", "runAsUser and runAsGroup")},
		{"more than 32 bits", rules.Container{Name: "app", UID: id(1<<32 + 1337)}, ""},

		{"one of its groups", rules.Container{Name: "app", UID: id(1000), GID: id(1000), Groups: []uint32{1000, 1338}}, groups},
		{"as many as are looked at", rules.Container{Name: "app", UID: id(0), GID: id(0), Groups: many[1:]}, ""},
		{"too many groups", rules.Container{Name: "app", UID: id(0), GID: id(0), Groups: many},
			"container app has 129 additional groups, and 128 are looked at for the proxy's. Give the pod fewer supplementalGroups" + exempting},
		{"the proxy among its own groups", rules.Container{Name: "istio-proxy", UID: id(1337), GID: id(1338), Groups: []uint32{1338, 7}}, ""},
		{"the proxy in many groups", rules.Container{Name: "istio-proxy", Args: []string{"pilot-agent", "proxy"}, UID: id(1337), GID: id(1338), Groups: many}, ""},

		{"the proxy", rules.Container{Name: "istio-proxy", UID: id(1337), GID: id(1338)}, ""},
		{"its program", runs("istio-proxy", "/usr/local/bin/pilot-agent", "proxy", "sidecar"), ""},
		{"its program alone", runs("istio-proxy", "/usr/local/bin/pilot-agent"), instead("istio-proxy", "/usr/local/bin/pilot-agent", "pilot-agent proxy")},
		{"a shell", runs("istio-proxy", "/bin/sh", "-c", "pilot-agent proxy", "x"), instead("istio-proxy", "/bin/sh -c pilot-agent proxy", "pilot-agent proxy")},
		{"another program of that name", runs("istio-proxy", "pilot-agent2", "proxy"), instead("istio-proxy", "pilot-agent2 proxy", "pilot-agent proxy")},
		{"without the program, where a runtime tells it", runs("istio-proxy", "proxy", "sidecar"), instead("istio-proxy", "proxy sidecar", "pilot-agent proxy")},
		{"a program that looks like a flag", runs("istio-proxy", "-x"), instead("istio-proxy", "-x", "pilot-agent proxy")},
		{"without the program, of a manifest", headless("proxy", "sidecar"), ""},
		{"flags, of a manifest", headless("-addresses"), ""},
		{"other words, of a manifest", headless("sleep"), instead("istio-proxy", "sleep", "pilot-agent proxy")},
		{"one word, of a manifest", rules.Container{Name: "simple", Args: []string{"x"}, ArgsOnly: true, UID: id(1337)}, instead("simple", "x", "simple")},
		{"whatever it runs", runs("house-proxy", "x"), ""},
		{"a very long word", runs("istio-proxy", strings.Repeat("x", 100)), instead("istio-proxy", strings.Repeat("x", 64), "pilot-agent proxy")},
		{"an app of that name with another user", rules.Container{Name: "istio-proxy", Args: []string{"sh"}, UID: id(7)}, ""},

		{"image", image("registry.example/istio/proxyv2:1.28"), ""},
		{"digest", image("x@sha256:00"), ""},
		{"another image", image("registry.example/evil/proxyv2:1.28"), foreign("registry.example/evil/proxyv2:1.28")},
	} {
		if got := enrolled().Impostor(tt.c); got != tt.want {
			t.Errorf("%s: got  %q\nwant %q", tt.name, got, tt.want)
		}
		if got := enrolled().Impostor(tt.c.Identity()); got != tt.want && len(tt.c.Groups) <= 128 {
			t.Errorf("%s: what is remembered gives %q\nwant %q", tt.name, got, tt.want)
		}
	}
	if got := enrolled().Impostor(rules.Container{Name: "app", Groups: many}.Identity()); got == "" {
		t.Error("too many groups are forgotten")
	}
	d := enrolled()
	if d.Proxy.Images = nil; d.Impostor(image("x")) != "" {
		t.Error("without proxy_images there is any image")
	}
	if d.Proxy.GID = rules.NoID; d.Impostor(rules.Container{Name: "app", UID: id(0), Groups: many}) != "" {
		t.Error("a proxy without a group of its own has none that others could be in")
	}
	for _, action := range []rules.Action{rules.Skip, rules.Reject} {
		d := enrolled()
		d.Action = action
		if got := d.Impostor(rules.Container{Name: "app", UID: id(1337)}); got != "" {
			t.Errorf("%s: %q", action, got)
		}
	}
	noProxy := rules.Decision{Action: rules.Enrol, Proxy: rules.Proxy{UID: 1337, GID: 1337}}
	if noProxy.Impostor(rules.Container{Name: "istio-proxy", UID: id(1337)}) == "" {
		t.Error("a name that the injector did not write down is nobody's proof")
	}
}

// What is remembered of a container is bounded, whatever its author writes.
func TestIdentityIsSmall(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	got := rules.Container{Name: "app", Args: []string{long, long, long, long}, Env: map[string]string{"A": long}, UID: id(1),
		Groups: slices.Repeat([]uint32{7}, 1<<16)}.Identity()
	if len(got.Args) != 3 || len(strings.Join(got.Args, "")) != 3*64 || got.Env != nil || len(got.Groups) != 129 || cap(got.Groups) > 256 {
		t.Errorf("%d words, %d bytes, %d variables, %d groups in room for %d", len(got.Args), len(strings.Join(got.Args, "")), len(got.Env), len(got.Groups), cap(got.Groups))
	}
	small := rules.Container{Name: "app", Args: []string{"a"}, UID: id(1), GID: id(2), Groups: []uint32{3}, Image: "i", ArgsOnly: true}
	if diff := cmp.Diff(small, small.Identity()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Packet sockets are the manifest's to tell, and the proxy's are its own business.
func TestPacketSockets(t *testing.T) {
	pod := rules.Pod{Complete: true, Containers: []rules.Container{{Name: "istio-proxy"}, {Name: "app"}, {Name: "dropped", Powers: rules.Powers{DropsNetRaw: true}}, {Name: "log"}}}
	if got := enrolled().PacketSockets(pod); !slices.Equal(got, []string{"app", "log"}) {
		t.Errorf("got %v", got)
	}
	pod.Containers[0].Args = []string{"sh"}
	if got := enrolled().PacketSockets(pod); !slices.Equal(got, []string{"istio-proxy", "app", "log"}) {
		t.Errorf("with a shell of the proxy's name: %v", got)
	}
	if pod.Complete = false; enrolled().PacketSockets(pod) != nil {
		t.Error("a runtime does not tell capabilities")
	}
}
