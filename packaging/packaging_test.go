// SPDX-License-Identifier: Apache-2.0

// Package packaging holds the files a node and a cluster need beside the program. Its tests read them; what they
// do on a real runtime is shown in integration.
package packaging

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

const requiredPlugins = "required-plugins.noderesource.dev"

// A drop-in is merged into the node's configuration. One key too many would move its NRI socket, or clear what
// another administrator wrote.
func TestDropIns(t *testing.T) {
	name := config.Default().NRI.Name
	nri := func(validator map[string]any) map[string]any {
		return map[string]any{"version": int64(3), "plugins": map[string]any{
			"io.containerd.nri.v1.nri": map[string]any{"disable": false, "default_validator": validator},
		}}
	}
	for file, want := range map[string]map[string]any{
		"containerd/meshnetd.toml": nri(map[string]any{"enable": true, "reject_namespace_adjustment": true}),
		"containerd/meshnetd-required.toml": nri(map[string]any{
			"enable": true, "reject_namespace_adjustment": true,
			"required_plugins": []any{name}, "tolerate_missing_plugins_annotation": "",
		}),
		"crio/10-meshnetd.conf": {"crio": map[string]any{"nri": map[string]any{
			"enable_nri": true,
			"default_validator": map[string]any{
				"nri_enable_default_validator": true, "nri_validator_reject_namespace_adjustment": true,
			},
		}}},
	} {
		var got map[string]any
		if _, err := toml.DecodeFile(file, &got); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

// A daemon that has 2 s for an answer is not throttled, whatever it takes, and its memory has one bound: with half of it
// the kernel's memory of the rules that the budget allows 250 pods fits.
func TestResources(t *testing.T) {
	const most = 512 << 20
	unit, err := os.ReadFile("../systemd/meshnetd.service")
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{}
	for line := range strings.Lines(string(unit)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			set[key] = value
		}
	}
	for _, key := range []string{"MemoryHigh", "CPUQuota"} {
		if set[key] != "" {
			t.Errorf("the unit throttles by %s", key)
		}
	}
	if set["MemoryMax"] != "512M" || set["CPUWeight"] == "" {
		t.Errorf("the unit has MemoryMax %q and CPUWeight %q", set["MemoryMax"], set["CPUWeight"])
	}
	var values struct {
		Resources struct{ Requests, Limits map[string]string }
	}
	text, err := os.ReadFile("helm/meshnetd/values.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &values)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := values.Resources; r.Limits["cpu"] != "" || r.Limits["memory"] != "512Mi" || r.Requests["cpu"] == "" {
		t.Errorf("the chart has %+v", r)
	}
	const pods, bytesOfRule = 250, 1300 // as the reference configuration says
	if kernel := pods * rules.StandardBudget().Rules * bytesOfRule; kernel > most/2 {
		t.Errorf("rules of %d pods may take %d of %d bytes", pods, kernel, most)
	}
}

func TestIstioValues(t *testing.T) {
	var values struct {
		Pilot struct {
			CNI struct {
				Enabled  bool
				Provider string
			}
		}
		SidecarInjectorWebhook struct {
			InjectedAnnotations map[string]string `yaml:"injectedAnnotations"`
		} `yaml:"sidecarInjectorWebhook"`
	}
	documents := decodeAll(t, "istio/values.yaml", &values)
	if cni := values.Pilot.CNI; documents != 1 || !cni.Enabled || cni.Provider != "default" {
		t.Errorf("%d documents, pilot.cni = %+v", documents, cni)
	}
	annotations := values.SidecarInjectorWebhook.InjectedAnnotations
	if len(annotations) != 1 || !requires(annotations[requiredPlugins], config.Default().NRI.Name) {
		t.Errorf("injected annotations %v", annotations)
	}
}

// What istioctl is given says what Helm is given, in the place that istioctl reads.
func TestIstioctl(t *testing.T) {
	type webhook struct {
		InjectedAnnotations map[string]string `yaml:"injectedAnnotations"`
		Templates           map[string]string
		DefaultTemplates    []string `yaml:"defaultTemplates"`
	}
	type values struct {
		Pilot                  struct{ CNI map[string]any }
		CNI                    map[string]any
		SidecarInjectorWebhook webhook `yaml:"sidecarInjectorWebhook"`
	}
	type operator struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       struct {
			Components map[string]struct{ Enabled bool }
			Values     values
		}
	}
	for helm, istioctl := range map[string]string{"values.yaml": "istioctl.yaml", "without-validation.yaml": "istioctl-without-validation.yaml"} {
		var want values
		var got operator
		decodeAll(t, "istio/"+helm, &want)
		decodeAll(t, "istio/"+istioctl, &got)
		if want.Pilot.CNI["enabled"] != nil {
			delete(want.Pilot.CNI, "enabled")
			if !got.Spec.Components["cni"].Enabled || got.Spec.Values.CNI["affinity"] == nil {
				t.Errorf("%s: components.cni is not on, or its DaemonSet is on nodes", istioctl)
			}
		}
		got.Spec.Values.CNI = nil
		if diff := cmp.Diff(want, got.Spec.Values); diff != "" || got.Kind != "IstioOperator" {
			t.Errorf("%s and %s (-helm +istioctl):\n%s", helm, istioctl, diff)
		}
	}
}

// requires reports whether the runtime's validator, which reads YAML, finds the plugin in an annotation's value.
func requires(value, plugin string) bool {
	var names []string
	if err := yaml.Unmarshal([]byte(value), &names); err != nil {
		return false
	}
	return slices.Contains(names, plugin) || slices.Contains(names, config.Default().NRI.Index+"-"+plugin)
}

// decodeAll reads as many documents as there are places for them, and returns how many there are. A field that a
// place does not have is an error.
func decodeAll(t *testing.T, file string, places ...any) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	for i := 0; ; i++ {
		var place any = new(any)
		if i < len(places) {
			place = places[i]
		}
		if err := decoder.Decode(place); errors.Is(err, io.EOF) {
			return i
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}
