// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
	"weak"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestRequires(t *testing.T) {
	const key = "required-plugins.noderesource.dev"
	for name, tt := range map[string]struct {
		annotations map[string]string
		want        bool
	}{
		"nothing":                     {nil, false},
		"us":                          {map[string]string{key: `["meshnetd"]`}, true},
		"us, with the index":          {map[string]string{key: `["a", "95-meshnetd"]`}, true},
		"with another index":          {map[string]string{key: `["10-meshnetd"]`}, false},
		"another plugin":              {map[string]string{key: `["other"]`}, false},
		"as YAML":                     {map[string]string{key: "- other\n- meshnetd\n"}, true},
		"no list":                     {map[string]string{key: `meshnetd`}, false},
		"cut":                         {map[string]string{key: `["meshnetd"`}, false},
		"undone for the pod":          {map[string]string{key: `["meshnetd"]`, key + "/pod": "[]"}, false},
		"undone for the container":    {map[string]string{key: `["meshnetd"]`, key + "/container.app": "[]"}, false},
		"undone for another":          {map[string]string{key: `["meshnetd"]`, key + "/container.other": "[]"}, true},
		"longer than anybody's lists": {map[string]string{key: `["meshnetd", "` + strings.Repeat("x", longestRequired) + `"]`}, false},
	} {
		pod := meshed("a")
		pod.Annotations = tt.annotations
		if got := requires(pod, "app", "meshnetd", "95"); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What plugins changed is told with their names, the gravest first, and no more than a few of them.
func TestReview(t *testing.T) {
	pod := meshed("a")
	owners := &api.OwningPlugins{Owners: map[string]*api.FieldOwners{}}
	c := app(pod)
	id := c.GetId()
	for _, err := range []error{owners.ClaimArgs(id, "50-a"), owners.ClaimEnv(id, "X", "50-a"), owners.ClaimMount(id, "/m", "51-b"), owners.ClaimHooks(id, "52-c"),
		owners.ClaimDevice(id, "/dev/net/tun", "51-b"), owners.ClaimSysctl(id, "net.ipv4.ip_forward", "50-a"), owners.ClaimSysctl(id, "kernel.shm", "50-a"),
		owners.ClaimNamespace(id, "network", "50-a"), owners.ClaimLinuxNetDevice(id, "eth1", "51-b")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	req := &api.ValidateContainerAdjustmentRequest{Pod: pod, Container: c, Owners: owners,
		Plugins: []*api.PluginInstance{{Name: "default-validator", Index: "10"}, {Name: "other", Index: "00"}, {Name: "meshnetd", Index: "95"}}}
	want := &rules.Review{Changes: []rules.Adjustment{
		{Plugin: "51-b", Field: "devices", What: "/dev/net/tun"}, {Plugin: "52-c", Field: "hooks"}, {Plugin: "50-a", Field: "namespaces", What: "network"},
		{Plugin: "51-b", Field: "network devices", What: "eth1"}, {Plugin: "50-a", Field: "sysctls", What: "net.ipv4.ip_forward"},
		{Plugin: "50-a", Field: "arguments"}, {Plugin: "50-a", Field: "environment", What: "X"}, {Plugin: "51-b", Field: "mounts", What: "/m"},
	}}
	if diff := cmp.Diff(want, reviewOf(req, "meshnetd", "95")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	req.Plugins[0].Index = "00"
	pod.Annotations = map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`}
	for i := range 100 {
		if err := owners.ClaimEnv(id, fmt.Sprint("V", i, strings.Repeat("x", 1000)), "50-a"); err != nil {
			t.Fatal(err)
		}
	}
	got := reviewOf(req, "meshnetd", "95")
	long := slices.ContainsFunc(got.Changes, func(c rules.Adjustment) bool { return len(c.String()) > 2*longestChange })
	if !got.Validator || !got.Required || len(got.Changes) != mostChanges || got.Changes[0].Field != "devices" || long {
		t.Errorf("%+v", got)
	}
}

// What is remembered of a change does not keep the long name that it is the beginning of.
func TestChangesForgetLongNames(t *testing.T) {
	changed := func() ([]rules.Adjustment, weak.Pointer[byte]) {
		long := strings.Repeat("x", 1<<20)
		owners := api.NewOwningPlugins()
		if err := owners.ClaimMount("id", long, "20-other"); err != nil {
			t.Fatal(err)
		}
		req := &api.ValidateContainerAdjustmentRequest{Container: &api.Container{Id: "id"}}
		req.AddOwners(owners)
		return changesOf(req), weak.Make(unsafe.StringData(long))
	}
	changes, name := changed()
	runtime.GC()
	if len(changes) != 1 || changes[0].What != strings.Repeat("x", longestChange) || name.Value() != nil {
		t.Errorf("%d changes, name kept: %t", len(changes), name.Value() != nil)
	}
}
