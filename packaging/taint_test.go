// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Who sets the taint and who takes it away mean the same one, and the account that may patch nodes is held to it. What
// they do is shown in integration/kube.
func TestTaint(t *testing.T) {
	var kubelet struct {
		APIVersion         string `yaml:"apiVersion"`
		Kind               string
		RegisterWithTaints []struct{ Key, Effect string } `yaml:"registerWithTaints"`
	}
	if decodeAll(t, "taint/kubelet.yaml", &kubelet) != 1 || len(kubelet.RegisterWithTaints) != 1 {
		t.Fatalf("%+v", kubelet)
	}
	key := kubelet.RegisterWithTaints[0].Key
	text, err := os.ReadFile("taint/taint.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{`if eq .key "` + key + `"`, key + ":" + kubelet.RegisterWithTaints[0].Effect + "-",
		key + "=:" + kubelet.RegisterWithTaints[0].Effect, "n.key == '" + key + "'", "- {key: " + key + ", operator: Exists}", "b.key == '" + key + "'"} {
		if !strings.Contains(string(text), place) {
			t.Errorf("no %q in taint/taint.yaml", place)
		}
	}
	if !strings.Contains(string(text), "kind: ValidatingAdmissionPolicyBinding\n") || !strings.Contains(string(text), `validationActions: ["Deny"]`) {
		t.Error("nothing holds the account to the one taint")
	}
	if verbs := regexp.MustCompile(`verbs: \[(.*)\]`).FindAllStringSubmatch(string(text), -1); len(verbs) != 2 || verbs[0][1] != "get, list, patch" || verbs[1][1] != "list" {
		t.Errorf("the account may %v", verbs)
	}
}

// Istio's own template stays the first, and of it nothing but istio-validation is taken away.
func TestWithoutValidation(t *testing.T) {
	var values struct {
		SidecarInjectorWebhook struct {
			Templates        map[string]string
			DefaultTemplates []string `yaml:"defaultTemplates"`
		} `yaml:"sidecarInjectorWebhook"`
	}
	decodeAll(t, "istio/without-validation.yaml", &values)
	webhook := values.SidecarInjectorWebhook
	if len(webhook.DefaultTemplates) != 2 || webhook.DefaultTemplates[0] != "sidecar" || webhook.Templates[webhook.DefaultTemplates[1]] == "" {
		t.Fatalf("templates %v, of %v", webhook.DefaultTemplates, webhook.Templates)
	}
	const want = "spec:\n  initContainers:\n    - name: istio-validation\n      $patch: delete\n"
	if got := webhook.Templates[webhook.DefaultTemplates[1]]; got != want || len(webhook.Templates) != 1 {
		t.Errorf("%q, want %q", got, want)
	}
}

// The taint is where no meshnetd is ready, and what the API server does not tell changes nothing.
func TestTaintScript(t *testing.T) {
	var file struct {
		Kind string
		Data map[string]string
	}
	text, err := os.ReadFile("taint/taint.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		if file.Kind != "ConfigMap" {
			if err := yaml.Unmarshal([]byte(document), &file); err != nil {
				t.Fatal(err)
			}
		}
	}
	nodes := `printf 'new tainted\ngood\ngone\nback tainted\n'`
	pods := `printf 'good\nback\nback\n'`
	for name, tt := range map[string]struct{ nodes, pods, want string }{
		"all is told":    {nodes, pods, "gone meshnetd.io/not-ready=:NoSchedule\nback meshnetd.io/not-ready:NoSchedule-\n"},
		"no meshnetd":    {nodes, "true", "good meshnetd.io/not-ready=:NoSchedule\ngone meshnetd.io/not-ready=:NoSchedule\n"},
		"no nodes":       {"true", pods, ""},
		"nodes not told": {nodes + "; false", pods, ""},
		"pods not told":  {nodes, "false", ""},
	} {
		dir := t.TempDir()
		programs := map[string]string{
			"sleep":   "[ ! -e " + dir + "/once ] && : >" + dir + "/once",
			"kubectl": "case \"$*\" in\n'get nodes '*) " + tt.nodes + ";;\n*' get pods '*) " + tt.pods + ";;\n'taint nodes '*) echo \"$3 $4\" >>" + dir + "/said;;\nesac",
		}
		for program, text := range programs {
			if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", file.Data["taint.sh"])
		cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		out, _ := cmd.CombinedOutput() // the loop ends with a sleep that fails
		said, _ := os.ReadFile(filepath.Join(dir, "said"))
		if string(said) != tt.want || len(out) > 0 {
			t.Errorf("%s: %q, want %q; %s", name, said, tt.want, out)
		}
	}
}
