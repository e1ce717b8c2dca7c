// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
)

// all.pb is all.yaml as v1.Pod of k8s.io/api v0.37.2 marshals it.
func marshalled(t testing.TB) []byte {
	t.Helper()
	message, err := os.ReadFile("testdata/all.pb")
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestReadProtobuf(t *testing.T) {
	want := rules.Pod{
		UID: "8f0b1c9e-0000-4000-8000-000000000001", Namespace: "shop", Name: "cart-7d9f-x2x4z", RuntimeHandler: "nvidia",
		HostNetwork: true, HostPID: true, Complete: true,
		Containers: []rules.Container{
			{Name: "istio-validation", Args: []string{"istio-iptables", "-p", "15001", "-x", ""}, ArgsOnly: true, UID: ptr(1337), GID: ptr(1337), Phase: rules.PhaseInit},
			{Name: "istio-proxy", Args: []string{"proxy", "sidecar", "--domain", "shop.svc.cluster.local"}, ArgsOnly: true,
				Env: map[string]string{"POD_NAMESPACE": "shop"}, UID: ptr(999), GID: ptr(998), Phase: rules.PhaseSidecar},
			{Name: "app", Image: "registry.example/app:1", Args: []string{"/bin/app", "--name=cart-7d9f-x2x4z", "$(KEPT)"},
				Env: map[string]string{"POD_NAME": "cart-7d9f-x2x4z", "FULL": "cart-7d9f-x2x4z.shop"}, UID: ptr(999), GID: ptr(998), Powers: rules.Powers{NetAdmin: true, DropsNetRaw: true}},
			{Name: "hidden", UID: ptr(999), GID: ptr(998), Powers: rules.Powers{Privileged: true}},
			{Name: "keyed", Env: map[string]string{"A": "a"}, UID: ptr(0), GID: ptr(998), Powers: rules.Powers{DropsNetRaw: true}},
			{Name: "shell", Image: "localhost:5000/shell", UID: ptr(999), GID: ptr(998), Phase: rules.PhaseDebug, Powers: rules.Powers{NetRaw: true}},
		},
	}
	for i := range want.Containers {
		want.Containers[i].Groups = []uint32{5, 6, 7}
	}
	got, err := manifest.ReadProtobuf(marshalled(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if hidden := got.Container("hidden"); hidden.Env != nil || hidden.Args != nil {
		t.Errorf("an environment that others say, and what it expands, count as known: %v, %q", hidden.Env, hidden.Args)
	}
	text, err := os.Open("testdata/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	same, err := manifest.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	same.Labels, same.Annotations, same.IPs = nil, nil, nil
	if diff := cmp.Diff(same, got, compare); diff != "" {
		t.Errorf("the same pod is another one in protobuf: -YAML +protobuf:\n%s", diff)
	}
}

// message is a pod of one container with these fields beside its name.
func message(container []byte) []byte {
	sub := func(to []byte, number protowire.Number, bytes []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), bytes)
	}
	metadata := sub(nil, 5, []byte("u"))
	return sub(sub(nil, 1, metadata), 2, sub(nil, 2, append(sub(nil, 1, []byte("app")), container...)))
}

func TestReadProtobufBounds(t *testing.T) {
	long := func(number protowire.Number, inner bool) []byte {
		text := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), strings.Repeat("x", 65<<10))
		if !inner {
			return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), strings.Repeat("x", 65<<10))
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), text)
	}
	for _, tt := range []struct {
		name string
		text []byte
	}{{"arguments", long(4, false)}, {"environment", long(7, true)}} {
		pod, err := manifest.ReadProtobuf(message(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		if c := pod.Containers[0]; c.Args != nil || tt.name == "environment" && c.Env != nil {
			t.Errorf("%s: too much is kept: %d arguments, environment known: %t", tt.name, len(c.Args), c.Env != nil)
		}
	}
	container := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), nil)
	many := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), bytes.Repeat(container, 1025))
	user := protowire.AppendBytes(protowire.AppendTag(nil, 15, protowire.BytesType), protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 1<<31))
	for name, bad := range map[string][]byte{
		"too many containers": many, "a user beyond all": message(user), "cut": marshalled(t)[:500], "nothing": nil, "text": []byte("kind: Pod"),
	} {
		if pod, err := manifest.ReadProtobuf(bad); err == nil {
			t.Errorf("%s: no error, but %v", name, pod)
		}
	}
}

// Variables that name others are no way to use up memory.
func TestExpansionIsBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("kind: Pod\nspec:\n  containers:\n  - name: a\n    args: [$(V59)]\n    env:\n    - {name: V0, value: xxxxxxxxxxxxxxxx}\n")
	for i := 1; i < 60; i++ {
		fmt.Fprintf(&text, "    - {name: V%d, value: \"$(V%d)$(V%d)\"}\n", i, i-1, i-1)
	}
	pod, err := manifest.Read(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if c := pod.Containers[0]; c.Args != nil || c.Env != nil {
		t.Errorf("%d arguments and %d variables are known", len(c.Args), len(c.Env))
	}
}

func FuzzReadProtobuf(f *testing.F) {
	f.Add(marshalled(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		pod, err := manifest.ReadProtobuf(message)
		if err == nil && (pod.UID == "" || len(pod.Containers) > 1024) {
			t.Errorf("%d containers of %q", len(pod.Containers), pod.UID)
		}
		if bytes, _ := letters(pod); bytes > 256<<10 {
			t.Errorf("%d bytes of words", bytes)
		}
	})
}
