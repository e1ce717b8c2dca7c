// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"regexp"
	"strings"
	"testing"
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
	text, err := os.ReadFile("taint/untaint.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{`if eq .key "` + key + `"`, key + ":" + kubelet.RegisterWithTaints[0].Effect + "-", "- {key: " + key + ", operator: Exists}", "b.key == '" + key + "'"} {
		if !strings.Contains(string(text), place) {
			t.Errorf("no %q in taint/untaint.yaml", place)
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
