// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the chart renders, and what lies beside it, is what the Kubernetes API is described to take, down to each field:
// kubeconform checks it against the description that comes with Kubernetes' own source.
func TestSchemas(t *testing.T) {
	schemas := kubernetesSchemas(t)
	for name, values := range map[string]string{"nothing said": "", "everything": everything, "openshift": read(t, "meshnetd/values-openshift.yaml")} {
		t.Run(name, func(t *testing.T) {
			rendered, err := renderText(t, values)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := conform(t, schemas, rendered); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	for _, file := range []string{"../kubernetes/meshnetd.yaml", "../admission/required-plugin.yaml", "../taint/taint.yaml"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if out, err := conform(t, schemas, []byte(read(t, file))); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	for name, change := range map[string][3]string{
		"an unknown field": {"maxSurge:", "maximalSurge:", "maximalSurge"},
		"another type":     {"hostNetwork: true", "hostNetwork: often", "/hostNetwork"},
		"an unknown kind":  {"kind: DaemonSet", "kind: DemonSet", "DemonSet"},
	} {
		t.Run(name, func(t *testing.T) {
			manifest := strings.Replace(read(t, "../kubernetes/meshnetd.yaml"), change[0], change[1], 1)
			if !strings.Contains(manifest, change[1]) {
				t.Fatalf("no %q to change", change[0])
			}
			if out, err := conform(t, schemas, []byte(manifest)); err == nil || !strings.Contains(out, change[2]) {
				t.Errorf("%v, and nothing of %s in\n%s", err, change[2], out)
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// conform has kubeconform look at manifests. Kinds that are not Kubernetes' own are left out.
func conform(t *testing.T, schemas string, manifests []byte) (string, error) {
	t.Helper()
	cmd := exec.Command(tool(t, "kubeconform"), "-strict", "-summary", "-skip", "PodMonitor,SecurityContextConstraints",
		"-schema-location", filepath.Join(schemas, "{{ .ResourceKind }}{{ .KindSuffix }}.json"), "-")
	cmd.Stdin = bytes.NewReader(manifests)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// kubernetesSchemas writes a schema for each kind of the pinned Kubernetes, and returns their directory.
func kubernetesSchemas(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", "k8s.io/kubernetes")
	cmd.Dir = "../../integration/kube/kubernetes"
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("download Kubernetes' source: %v\n%s", err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	var described struct{ Definitions map[string]map[string]any }
	if err := json.Unmarshal([]byte(read(t, filepath.Join(module.Dir, "api", "openapi-spec", "swagger.json"))), &described); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, schema any) {
		text, err := json.Marshal(schema)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, d := range described.Definitions {
		switch {
		case strings.HasSuffix(name, ".IntOrString"), strings.HasSuffix(name, ".Quantity"): // said to be texts only
			described.Definitions[name] = map[string]any{"type": []string{"string", "number"}}
			continue
		case d["properties"] != nil && d["additionalProperties"] == nil:
			d["additionalProperties"] = false // as the API server's strict validation has it
		}
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			kind := k.(map[string]any)
			group, _, _ := strings.Cut(kind["group"].(string), ".")
			file := strings.ToLower(kind["kind"].(string)) + "-" + kind["version"].(string) + ".json"
			if group != "" {
				file = strings.ToLower(kind["kind"].(string)) + "-" + group + "-" + kind["version"].(string) + ".json"
			}
			write(file, map[string]any{"$ref": "all.json#/definitions/" + name})
		}
	}
	write("all.json", map[string]any{"definitions": described.Definitions})
	return dir
}
