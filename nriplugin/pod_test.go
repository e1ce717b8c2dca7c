// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestContainerOf(t *testing.T) {
	zero, uid := int64(0), int64(4294967294)
	for _, test := range []struct {
		name      string
		container *api.Container
		want      rules.Container
	}{
		{"whole", app(meshed("a")), ofApp()},
		{"nil", nil, rules.Container{}},
		{"empty", &api.Container{}, rules.Container{}},
		{"root is told", &api.Container{User: &api.User{}}, rules.Container{UID: &zero, GID: &zero}},
		{"a large user", &api.Container{User: &api.User{Uid: 4294967294}}, rules.Container{UID: &uid, GID: &zero}},
		{"groups", &api.Container{User: &api.User{Uid: 4294967294, AdditionalGids: []uint32{0, 1337}}}, rules.Container{UID: &uid, GID: &zero, Groups: []uint32{0, 1337}}},
		{"image", &api.Container{Image: &api.Image{Name: "registry.example/a:1", Digest: "sha256:00"}}, rules.Container{Image: "registry.example/a:1"}},
		{"created", &api.Container{State: api.ContainerState_CONTAINER_CREATED}, rules.Container{}},
		{"running", &api.Container{State: api.ContainerState_CONTAINER_RUNNING}, rules.Container{Running: true}},
		{"paused has been started", &api.Container{State: api.ContainerState_CONTAINER_PAUSED}, rules.Container{Running: true}},
		{"stopped", &api.Container{State: api.ContainerState_CONTAINER_STOPPED}, rules.Container{}},
		{"name by label", &api.Container{Labels: map[string]string{containerName: "l"}, Annotations: map[string]string{containerName: "a"}},
			rules.Container{Name: "l"}},
		{"name by annotation", &api.Container{Annotations: map[string]string{"io.kubernetes.container.name": "a"}}, rules.Container{Name: "a"}},
		{"its own name first", &api.Container{Name: "n", Labels: map[string]string{containerName: "l"}}, rules.Container{Name: "n"}},
		{"no network listed", &api.Container{Linux: &api.LinuxContainer{Namespaces: []*api.LinuxNamespace{nil, {Type: "pid", Path: "/p"}}}},
			rules.Container{}},
	} {
		if diff := cmp.Diff(test.want, containerOf(test.container)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name string
		list []string
		want map[string]string
	}{
		{"none", nil, nil},
		{"empty", []string{}, nil},
		{"ordinary", []string{"A=1", "B=2"}, map[string]string{"A": "1", "B": "2"}},
		{"the later counts", []string{"A=1", "B=2", "A=3"}, map[string]string{"A": "3", "B": "2"}},
		{"even where it is empty", []string{"A=1", "A"}, map[string]string{"A": ""}},
		{"no value", []string{"A="}, map[string]string{"A": ""}},
		{"no equals sign", []string{"A"}, map[string]string{"A": ""}},
		{"more of them", []string{"A=b=c=", `J={"k": "="}`}, map[string]string{"A": "b=c=", "J": `{"k": "="}`}},
		{"lines and spaces", []string{" A = 1\n2 "}, map[string]string{" A ": " 1\n2 "}},
		{"no name", []string{"=1"}, map[string]string{"": "1"}},
	} {
		if diff := cmp.Diff(test.want, environment(test.list)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestAdjusted(t *testing.T) {
	const own, sandbox = "/proc/4711/ns/net", "/run/netns/a"
	net := func(path string) *api.LinuxNamespace { return &api.LinuxNamespace{Type: "network", Path: path} }
	gone := &api.LinuxNamespace{Type: "-network"}
	for _, test := range []struct {
		name    string
		adjust  *api.ContainerAdjustment
		owner   string                // of the network namespace; "" is not recorded
		had     []*api.LinuxNamespace // nil is those of app
		want    func(*rules.Container)
		movedBy string
	}{
		{name: "nothing", adjust: nil},
		{name: "nothing in it", adjust: &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{}}},
		{name: "arguments", adjust: &api.ContainerAdjustment{Args: []string{"/sh", "-c"}},
			want: func(c *rules.Container) { c.Args = []string{"/sh", "-c"} }},
		{name: "environment", adjust: &api.ContainerAdjustment{Env: []*api.KeyValue{{Key: "-A"}, {Key: "B", Value: "x=y"}, {Key: "C"}}},
			want: func(c *rules.Container) { c.Env = map[string]string{"B": "x=y", "C": ""} }},
		{name: "no environment left", adjust: &api.ContainerAdjustment{Env: []*api.KeyValue{{Key: "-A"}, {Key: "-B"}}},
			want: func(c *rules.Container) { c.Env = nil }},
		{name: "another namespace", adjust: moving(&api.LinuxNamespace{Type: "ipc", Path: "/x"}, &api.LinuxNamespace{Type: "-pid"}, nil), owner: "20-other"},
		{name: "changed", adjust: moving(net("/run/netns/x")), owner: "20-other",
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "/run/netns/x", "20-other" }},
		{name: "changed by nobody known", adjust: moving(net("/run/netns/x")),
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "/run/netns/x", "another plugin" }},
		{name: "a new one", adjust: moving(net("")), owner: "20-other",
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "", "20-other" }},
		{name: "removed: the host's", adjust: moving(gone), owner: "-20-other",
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "", "20-other" }},
		{name: "removed and set", adjust: moving(gone, net("/run/netns/x")), owner: "20-other",
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "/run/netns/x", "20-other" }},
		{name: "set and removed", adjust: moving(net(own), gone), owner: "20-other",
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "", "20-other" }},
		{name: "set to what it was", adjust: moving(net(own)), owner: "20-other"},
		{name: "set to the sandbox's own", adjust: moving(net(sandbox)), owner: "20-other",
			want: func(c *rules.Container) { c.NetNS = sandbox }},
		{name: "added", adjust: moving(net("/run/netns/x")), owner: "20-other", had: []*api.LinuxNamespace{{Type: "pid"}},
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "/run/netns/x", "20-other" }},
		{name: "a new one where there was none", adjust: moving(net("")), owner: "20-other", had: []*api.LinuxNamespace{{Type: "pid"}},
			want: func(c *rules.Container) { c.NetNS, c.MovedBy = "", "20-other" }},
		{name: "removed where there was none", adjust: moving(gone), owner: "20-other", had: []*api.LinuxNamespace{{Type: "pid"}},
			want: func(c *rules.Container) { c.NetNS = "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := meshed("a")
			req := &api.ValidateContainerAdjustmentRequest{Pod: pod, Container: app(pod), Adjust: test.adjust}
			if test.had != nil {
				req.Container.Linux.Namespaces = test.had
			}
			if test.owner != "" {
				owners := api.NewOwningPlugins()
				if err := owners.ClaimNamespace(req.Container.Id, "network", test.owner); err != nil {
					t.Fatal(err)
				}
				req.AddOwners(owners)
			}
			want := ofApp()
			if test.want != nil {
				test.want(&want)
			}
			if diff := cmp.Diff(want, adjusted(req)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	// A pod whose own namespace is not known has none that a new one could be.
	nowhere := &api.ValidateContainerAdjustmentRequest{Container: app(meshed("a")), Adjust: moving(net(""))}
	if c := adjusted(nowhere); c.MovedBy == "" {
		t.Errorf("a new namespace was taken for the sandbox's: %+v", c)
	}
	if diff := cmp.Diff(rules.Container{}, adjusted(nil)); diff != "" {
		t.Errorf("no request (-want +got):\n%s", diff)
	}
}

// moving is an adjustment of namespaces.
func moving(namespaces ...*api.LinuxNamespace) *api.ContainerAdjustment {
	return &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{Namespaces: namespaces}}
}

// What the flow knows of pods that exist already: their containers, but not those that have ended.
func TestSynchronizeTellsContainers(t *testing.T) {
	enforcer := &pods{}
	h := newHooks(enforcer, &events{})
	one, two, empty, stopped := meshed("one"), meshed("two"), meshed("empty"), meshed("stopped")
	stopped.Linux.Namespaces[1].Path = ""
	in := func(pod *api.PodSandbox, name string, state api.ContainerState) *api.Container {
		return &api.Container{PodSandboxId: pod.Id, Name: name, State: state}
	}
	if _, err := h.Synchronize(t.Context(), []*api.PodSandbox{one, two, empty, stopped}, []*api.Container{
		in(one, "created", api.ContainerState_CONTAINER_CREATED), in(two, "runs", api.ContainerState_CONTAINER_RUNNING),
		in(one, "ended", api.ContainerState_CONTAINER_STOPPED), in(one, "runs too", api.ContainerState_CONTAINER_RUNNING),
		in(one, "unknown", api.ContainerState_CONTAINER_UNKNOWN), in(stopped, "rest", api.ContainerState_CONTAINER_CREATED),
	}); err != nil {
		t.Fatal(err)
	}
	want := []rules.Pod{podOf(one), podOf(two), podOf(empty)}
	want[0].Containers = []rules.Container{{Name: "created"}, {Name: "runs too", Running: true}, {Name: "unknown"}}
	want[1].Containers = []rules.Container{{Name: "runs", Running: true}}
	if diff := cmp.Diff([][]rules.Pod{want}, enforcer.synced); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
