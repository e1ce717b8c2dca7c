// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
)

// Every mesh that meshnetd enrols pods of by default is covered, with whatever decides about them, and a pod outside
// may change what it likes.
func TestAdmissionCoversMeshes(t *testing.T) {
	p := compile(t, readPolicy(t, "admission/required-plugin.yaml"))
	marks := map[string]struct{ annotations, labels map[string]string }{
		"istio":          {annotations: map[string]string{"sidecar.istio.io/status": "{}"}},
		"istio, opt-in":  {annotations: map[string]string{"istio-pod-network-controller/initialize": "true"}},
		"consul":         {annotations: map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled", "consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001}`}},
		"kuma":           {annotations: map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "cniMode: true"}},
		"kuma, networks": {annotations: map[string]string{"kuma.io/sidecar-injected": "true", "k8s.v1.cni.cncf.io/networks": "kuma-cni"}},
		"linkerd":        {annotations: map[string]string{"linkerd.io/proxy-version": "edge-26.1.1"}, labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"}},
	}
	for _, mesh := range config.Meshes {
		if _, ok := marks[mesh]; !ok {
			t.Errorf("nothing is known of pods of %s", mesh)
		}
	}
	for name, m := range marks {
		t.Run(name, func(t *testing.T) {
			ask := func(before any, after map[string]any) []int {
				return p.denied(t, map[string]any{"object": after, "oldObject": before, "namespaceObject": pod("Namespace", nil, nil)})
			}
			good := annotations(m.annotations).with(requiredPlugins, `["meshnetd"]`)
			created := pod("Pod", m.labels, good)
			if got := ask(nil, pod("Pod", m.labels, m.annotations)); !slices.Equal(got, []int{1}) {
				t.Errorf("without the annotation: denied by %v", got)
			}
			if got := ask(nil, created); len(got) > 0 {
				t.Errorf("with it: denied by %v", got)
			}
			if got := ask(created, pod("Pod", m.labels, good.with("example.com/a", "b"))); len(got) > 0 {
				t.Errorf("changed elsewhere: denied by %v", got)
			}
			for _, key := range deciding(t) {
				if got := ask(created, pod("Pod", m.labels, good.with(key, "x"))); !slices.Contains(got, 2) {
					t.Errorf("annotation %s is not frozen: denied by %v", key, got)
				}
				if got := ask(pod("Pod", nil, annotations{"a": "b"}), pod("Pod", nil, annotations{"a": "b"}.with(key, "x"))); len(got) > 0 && !slices.Contains(got, 2) {
					t.Errorf("annotation %s of a pod outside: denied by %v", key, got)
				}
				if got := ask(nil, pod("Binding", nil, annotations{key: "x"})); !slices.Equal(got, []int{3}) {
					t.Errorf("annotation %s by a binding: denied by %v", key, got)
				}
			}
			for _, key := range []string{"sidecar.istio.io/inject", "linkerd.io/control-plane-ns", "linkerd.io/control-plane-component"} {
				labels := annotations(m.labels).with(key, "x")
				if got := ask(created, pod("Pod", labels, good)); !slices.Equal(got, []int{2}) {
					t.Errorf("label %s is not frozen: denied by %v", key, got)
				}
				if got := ask(nil, pod("Binding", map[string]string{key: "x"}, nil)); !slices.Equal(got, []int{3}) {
					t.Errorf("label %s by a binding: denied by %v", key, got)
				}
			}
			for key := range m.annotations {
				if got := ask(created, pod("Pod", m.labels, good.with(key, ""))); !slices.Contains(got, 2) {
					t.Errorf("annotation %s can be removed: denied by %v", key, got)
				}
			}
		})
	}
	if got := p.denied(t, map[string]any{"object": pod("Binding", nil, nil), "oldObject": nil, "namespaceObject": pod("Namespace", nil, nil)}); len(got) > 0 {
		t.Errorf("an ordinary binding: denied by %v", got)
	}
}

// deciding returns the keys of annotations that the meshes' code reads.
func deciding(t *testing.T) (keys []string) {
	t.Helper()
	name := regexp.MustCompile(`^(key|prefix)`)
	for _, mesh := range config.Meshes {
		files, err := parser.ParseDir(token.NewFileSet(), filepath.Join("..", "rules", mesh), func(f fs.FileInfo) bool {
			return !strings.HasSuffix(f.Name(), "_test.go")
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		before := len(keys)
		for _, file := range files[mesh].Files {
			prefix := ""
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 || !name.MatchString(spec.Names[0].Name) {
					return true
				}
				value := ""
				ast.Inspect(spec.Values[0], func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.Ident:
						if n.Name == "prefix" {
							value += prefix
						}
					case *ast.BasicLit:
						text, err := strconv.Unquote(n.Value)
						if err == nil {
							value += text
						}
					}
					return true
				})
				if spec.Names[0].Name == "prefix" {
					prefix = value
				} else if strings.Contains(value, "/") {
					keys = append(keys, value)
				}
				return true
			})
		}
		if len(keys) == before {
			t.Errorf("no key was found in the code of %s", mesh)
		}
	}
	return append(keys, "openshift.io/deployer-pod-for.name", "openshift.io/build.name")
}
