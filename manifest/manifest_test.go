// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
)

var compare = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

func ptr(n int64) *int64 { return &n }

// An item of a list is read as the manifest is; of one that is no pod the error says what.
func TestItem(t *testing.T) {
	for _, name := range []string{"pod.json", "all.yaml"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := manifest.Read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		var document map[string]any
		if err := yaml.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		delete(document, "kind")
		item, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		got, err := manifest.Item(item)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compare); diff != "" {
			t.Errorf("%s (-read +item):\n%s", name, diff)
		}
	}
	for text, want := range map[string]string{`{"status":{"podIP":"10.0.0"}}`: "is not an IP address", `{"spec":{"securityContext":{"runAsUser":-1}}}`: "is not a user or group id",
		`[]`: "cannot unmarshal"} {
		if _, err := manifest.Item([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The same pod in both notations, with every field that is looked at and some that are not.
func TestRead(t *testing.T) {
	want := rules.Pod{
		UID: "8f0b1c9e-0000-4000-8000-000000000001", Namespace: "shop", Name: "cart-7d9f-x2x4z",
		Labels: map[string]string{"app": "cart", "sidecar.istio.io/inject": "true"},
		Annotations: map[string]string{
			"sidecar.istio.io/status":                      `{"initContainers":["istio-validation","istio-proxy"],"containers":null}`,
			"traffic.sidecar.istio.io/excludeInboundPorts": "22, 9100",
		},
		HostNetwork: true,
		IPs:         []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")},
		Containers: []rules.Container{
			{Name: "istio-validation", Args: []string{"istio-iptables", "-p", "15001", "-x", ""}, ArgsOnly: true, UID: ptr(999), Phase: rules.PhaseInit},
			{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, ArgsOnly: true,
				Env: map[string]string{"ISTIO_META_DNS_CAPTURE": "true", "TWICE": "last", "POD_NAME": "cart-7d9f-x2x4z"}, UID: ptr(1337), GID: ptr(0), Phase: rules.PhaseSidecar},
			{Name: "app", Env: map[string]string{}, UID: ptr(999)},
		},
		Complete: true,
	}
	for _, name := range []string{"pod.yaml", "pod.json"} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := manifest.Read(f)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compare); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestReadSmall(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       rules.Pod
	}{
		{"only a kind", "kind: Pod\n", rules.Pod{Namespace: "default"}},
		{"generated name", "kind: Pod\nmetadata: {generateName: cart-}\n", rules.Pod{Namespace: "default", Name: "cart-"}},
		{"name over generated name", "kind: Pod\nmetadata: {generateName: cart-, name: cart-1}\n", rules.Pod{Namespace: "default", Name: "cart-1"}},
		{"one address", "kind: Pod\nstatus: {podIP: 10.0.0.1}\n",
			rules.Pod{Namespace: "default", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		{"addresses over address", "kind: Pod\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 'fd00::1'}, {ip: 10.0.0.1}]}\n",
			rules.Pod{Namespace: "default", IPs: []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")}}},
		{"empty addresses", "kind: Pod\nstatus: {podIP: '', podIPs: [{ip: ''}]}\n", rules.Pod{Namespace: "default"}},
		{"no status", "kind: Pod\nstatus: null\nspec:\n", rules.Pod{Namespace: "default"}},
		{"comment and marker first", "# a pod\n---\nkind: Pod\n", rules.Pod{Namespace: "default"}},
		{"marker at the end", "kind: Pod\n...\n", rules.Pod{Namespace: "default"}},
		{"JSON with tabs", "{\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n", rules.Pod{Namespace: "default", Name: "a"}},
		{"JSON escapes", `{"kind":"Pod","metadata":{"name":"a","labels":{"x":"\u00e9\/\n"}}}`,
			rules.Pod{Namespace: "default", Name: "a", Labels: map[string]string{"x": "é/\n"}}},
		{"JSON pair of surrogates", `{"kind":"Pod","metadata":{"annotations":{"x":"\ud83d\ude00"}}}`,
			rules.Pod{Namespace: "default", Annotations: map[string]string{"x": "\U0001f600"}}},
		{"annotation in several lines", "kind: Pod\nmetadata:\n  annotations:\n    a: |\n      {\"x\":\n       1}\n",
			rules.Pod{Namespace: "default", Annotations: map[string]string{"a": "{\"x\":\n 1}\n"}}},
		{"anchors", "kind: Pod\nmetadata:\n  name: &n cart\n  namespace: *n\n", rules.Pod{Namespace: "cart", Name: "cart"}},
		{"no init containers", "kind: Pod\nspec: {containers: [{name: a}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a"}}}},
		{"ids at their ends", "kind: Pod\nspec: {containers: [{name: a, securityContext: {runAsUser: 0, runAsGroup: 2147483647}}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", UID: ptr(0), GID: ptr(2147483647)}}}},
		{"ids of the pod", "kind: Pod\nspec: {securityContext: {runAsUser: 1, runAsGroup: 2}, containers: [{name: a}, {name: b, securityContext: {runAsUser: 0, runAsGroup: 3}}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", UID: ptr(1), GID: ptr(2)}, {Name: "b", UID: ptr(0), GID: ptr(3)}}}},
		{"command and arguments", "kind: Pod\nspec: {initContainers: [{name: a, command: [/bin/x, y], args: [z]}, {name: b, command: [x]}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", Args: []string{"/bin/x", "y", "z"}, Phase: rules.PhaseInit}, {Name: "b", Args: []string{"x"}, Phase: rules.PhaseInit}}}},
		{"arguments without a command", "kind: Pod\nspec: {containers: [{name: a, args: [z]}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", Args: []string{"z"}, ArgsOnly: true}}}},
		{"additional groups", "kind: Pod\nspec: {securityContext: {fsGroup: 1, supplementalGroups: [2, 3]}, initContainers: [{name: a}], containers: [{name: b, securityContext: {runAsGroup: 4}}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", Groups: []uint32{2, 3, 1}, Phase: rules.PhaseInit}, {Name: "b", GID: ptr(4), Groups: []uint32{2, 3, 1}}}}},
		{"capabilities", "kind: Pod\nspec: {containers: [{name: a, securityContext: {capabilities: {drop: [ALL]}}}, {name: b, securityContext: {capabilities: {drop: [net_raw]}}}, " +
			"{name: c, securityContext: {capabilities: {drop: [ALL], add: [CAP_NET_RAW]}}}, {name: d, securityContext: {capabilities: {drop: [NET_ADMIN]}}}, " +
			"{name: e, securityContext: {privileged: true, capabilities: {drop: [ALL]}}}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", Powers: rules.Powers{DropsNetRaw: true}}, {Name: "b", Powers: rules.Powers{DropsNetRaw: true}}, {Name: "c", Powers: rules.Powers{NetRaw: true}}, {Name: "d"}, {Name: "e", Powers: rules.Powers{Privileged: true}}}}},
		{"images", "kind: Pod\nspec: {containers: [{name: a, image: 'registry.example/x:1'}, {name: b, image: 'localhost:5000/y@sha256:00'}, {name: c, image: z}, {name: d, image: library/z}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a", Image: "registry.example/x:1"}, {Name: "b", Image: "localhost:5000/y@sha256:00"}, {Name: "c"}, {Name: "d"}}}},
		{"runtime class", "kind: Pod\nspec: {runtimeClassName: nvidia}\n", rules.Pod{Namespace: "default", RuntimeHandler: "nvidia"}},
		{"ids of null", "kind: Pod\nspec: {containers: [{name: a, securityContext: {runAsUser: null}}]}\n",
			rules.Pod{Namespace: "default", Complete: true, Containers: []rules.Container{{Name: "a"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := manifest.Read(strings.NewReader(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compare); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Unknown containers are not the same as none: the first are looked for in the injector's status.
func TestContainersUnknown(t *testing.T) {
	pod, err := manifest.Read(strings.NewReader("kind: Pod\n"))
	if err != nil {
		t.Fatal(err)
	}
	if pod.Containers != nil || pod.IPs != nil || pod.Complete {
		t.Errorf("got containers %#v, addresses %#v, complete %t, want nothing known", pod.Containers, pod.IPs, pod.Complete)
	}
}

func TestReadErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "manifest: empty"},
		{"only comments", "# nothing\n\n", "manifest: empty"},
		{"no YAML", "kind: Pod\n\tname: x\n", "manifest: yaml: line 2: "},
		{"JSON cut off", `{"kind": "Pod", "metadata": {`, "manifest: yaml: line 1: "},
		{"no mapping", "- kind: Pod\n", "manifest: yaml: unmarshal errors:\n  line 1: cannot unmarshal !!seq"},
		{"no kind", "metadata: {}\n", `manifest: kind is "", want Pod (of a workload, give one of its pods: kubectl get pod NAME -o yaml)`},
		{"another kind", "kind: Deployment\n", `manifest: kind is "Deployment", want Pod (of a workload, give one of its pods: kubectl get pod NAME -o yaml)`},
		{"kind of another case", "kind: pod\n", `manifest: kind is "pod", want Pod`},
		{"two documents", "kind: Pod\n---\nkind: Pod\n", "manifest: more than one document; give one Pod"},
		{"a second one that is broken", "kind: Pod\n---\n{\n", "manifest: more than one document; give one Pod"},
		{"bad type", "kind: Pod\nspec:\n  containers:\n  - name: a\n    args: proxy\n", "manifest: yaml: unmarshal errors:\n  line 5: cannot unmarshal !!str"},
		{"bad truth", "kind: Pod\nspec:\n  hostNetwork: maybe\n", "manifest: yaml: unmarshal errors:\n  line 3: cannot unmarshal !!str `maybe` into bool"},
		{"annotation of another type", "kind: Pod\nmetadata:\n  annotations:\n    a: [1]\n", "manifest: yaml: unmarshal errors:\n  line 4: cannot unmarshal !!seq into string"},
		{"bad address", "kind: Pod\nstatus:\n  podIPs:\n  - ip: 10.0.0.1\n  - ip: 10.0.0.1/24\n", `manifest: line 5: "10.0.0.1/24" is not an IP address`},
		{"bad single address", "kind: Pod\nstatus:\n  podIP: host\n", `manifest: line 3: "host" is not an IP address`},
		{"address of another type", "kind: Pod\nstatus:\n  podIP: [10.0.0.1]\n", "manifest: line 3: "},
		{"uid negative", "kind: Pod\nspec:\n  containers:\n  - name: a\n    securityContext:\n      runAsUser: -1\n",
			`manifest: line 6: "-1" is not a user or group id (0 to 2147483647)`},
		{"gid too large", "kind: Pod\nspec:\n  initContainers:\n  - name: a\n    securityContext:\n      runAsGroup: 2147483648\n",
			`manifest: line 6: "2147483648" is not a user or group id (0 to 2147483647)`},
		{"uid of another type", "kind: Pod\nspec:\n  containers:\n  - name: a\n    securityContext: {runAsUser: root}\n",
			`manifest: line 5: "root" is not a user or group id (0 to 2147483647)`},
		{"group of another type", "kind: Pod\nspec:\n  securityContext:\n    supplementalGroups: [1, x]\n", `manifest: line 4: "x" is not a user or group id (0 to 2147483647)`},
		{"fsGroup too large", "kind: Pod\nspec:\n  securityContext:\n    fsGroup: 2147483648\n", `manifest: line 4: "2147483648" is not a user or group id (0 to 2147483647)`},
		{"uid with a fraction", "kind: Pod\nspec:\n  containers:\n  - securityContext: {runAsUser: 1.5}\n", `manifest: line 4: "1.5" is not a user or group id (0 to 2147483647)`},
		{"key twice", "kind: Pod\nkind: Pod\n", "manifest: yaml: unmarshal errors:\n  line 2: "},
		{"unknown anchor", "kind: *x\n", "manifest: yaml: unknown anchor 'x' referenced"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod, err := manifest.Read(strings.NewReader(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if diff := cmp.Diff(rules.Pod{}, pod, compare); diff != "" {
				t.Errorf("half a pod besides the error:\n%s", diff)
			}
		})
	}
}

func TestReadBroken(t *testing.T) {
	broken := errors.New("broken pipe")
	if _, err := manifest.Read(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
}

func FuzzManifest(f *testing.F) {
	for _, name := range []string{"pod.yaml", "pod.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, seed := range []string{"", "kind: Pod\n", "kind: Pod\n---\n", "kind: Pod\nspec: {containers: [{name: a, env: [{name: b}]}]}\n",
		"kind: Pod\nstatus: {podIP: 'fe80::1%eth0'}\n", "kind: Pod\nmetadata: &m {labels: *m}\n", "kind: !!binary UG9k\n", "<<: {kind: Pod}\n",
		"kind: Pod\nspec: {containers: [{securityContext: {runAsUser: 0x7fffffff}}]}\n", "%YAML 1.1\n---\nkind: Pod\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pod, err := manifest.Read(strings.NewReader(text))
		switch {
		case err != nil && err.Error() == "":
			t.Error("an error without a word")
		case err == nil && pod.Namespace == "":
			t.Error("a pod without a namespace")
		}
		for _, c := range pod.Containers {
			for _, id := range []*int64{c.UID, c.GID} {
				if id != nil && (*id < 0 || *id > 1<<31-1) {
					t.Errorf("id %d", *id)
				}
			}
		}
	})
}

// What is too long to be a pod is not read to its end.
func TestTooLong(t *testing.T) {
	endless := strings.NewReader(strings.Repeat("# no pod\n", 1<<20))
	if _, err := manifest.Read(endless); err == nil || !strings.Contains(err.Error(), "longer than") || endless.Len() == 0 {
		t.Errorf("%v, %d bytes are left", err, endless.Len())
	}
}
