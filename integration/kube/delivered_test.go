// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The plain manifests are objects as the API server knows them, to the last field.
func (s *story) manifests(t *testing.T) {
	out := s.Kubectl(t, "apply", "--dry-run=server", "--validate=strict", "-n", "meshnetd-system",
		"-f", filepath.Join(Root(t), "packaging", "kubernetes", "meshnetd.yaml"))
	for _, want := range []string{"namespace/meshnetd-system", "serviceaccount/meshnetd", "configmap/meshnetd", "daemonset.apps/meshnetd"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s among\n%s", want, out)
		}
	}
}

// What meshnetd runs with is what the chart says, as the kernel has it.
func (s *story) privileges(t *testing.T) {
	process := s.process(t, "meshnetd")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process))
	if err != nil {
		t.Fatal(err)
	}
	// CAP_NET_ADMIN is bit 12, CAP_SYS_ADMIN bit 21. Seccomp 2 is a filter.
	for _, want := range []string{"CapEff:\t0000000000201000", "CapBnd:\t0000000000201000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", process))
	if lab := filepath.Base(s.C.Lab().Dir()); err != nil || !strings.Contains(string(groups), ":/"+lab+"/") {
		t.Errorf("not in the cgroup of which Close ends all: %v\n%s", err, groups)
	}
}

// process returns the process of the only running container of that name.
func (s *story) process(t *testing.T, container string) int {
	t.Helper()
	client := s.C.Lab().CRI()
	list, err := client.ListContainers(t.Context(), &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State:         &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING},
		LabelSelector: map[string]string{"io.kubernetes.container.name": container},
	}})
	if err != nil || len(list.GetContainers()) != 1 {
		t.Fatalf("%d containers %s run, want 1; %v", len(list.GetContainers()), container, err)
	}
	answer, err := client.ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: list.GetContainers()[0].GetId(), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(answer.GetInfo()["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("no process in %v, %v", answer.GetInfo(), err)
	}
	return info.PID
}

// Nobody in a tenant's namespace undoes the annotation by which a pod waits for meshnetd.
func (s *story) admission(t *testing.T) {
	s.Kubectl(t, "apply", "-f", filepath.Join(Root(t), "packaging", "admission", "required-plugin.yaml"))
	undone := meshed("undone", `required-plugins.noderesource.dev/pod: "[]"`)
	without := strings.Replace(meshed("without", ""), `    required-plugins.noderesource.dev: '["meshnetd"]'`+"\n", "", 1)
	for manifest, want := range map[string]string{
		undone:  "would let containers start without the mesh's rules: remove them",
		without: "a pod of the mesh needs the annotation required-plugins.noderesource.dev",
	} {
		// The policy is in force some moments after it is there.
		s.WaitInput(t, want, manifest, "apply", "--dry-run=server", "-f", "-")
	}
	for _, good := range []string{meshed("good", ""), plain("plain")} {
		if out, err := s.C.Kubectl(t.Context(), good, "apply", "--dry-run=server", "-f", "-"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// What without-validation.yaml adds to Istio's own template takes istio-validation out of a pod, and nothing else. The
// merge is that of the injector: a strategic merge patch of a Pod.
func (s *story) withoutValidation(t *testing.T) {
	var values struct {
		SidecarInjectorWebhook struct {
			Templates        map[string]string
			DefaultTemplates []string `yaml:"defaultTemplates"`
		} `yaml:"sidecarInjectorWebhook"`
	}
	text, err := os.ReadFile(filepath.Join(Root(t), "packaging", "istio", "without-validation.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	overlay := values.SidecarInjectorWebhook.Templates["meshnetd"]
	if want := []string{"sidecar", "meshnetd"}; !slices.Equal(values.SidecarInjectorWebhook.DefaultTemplates, want) || overlay == "" {
		t.Fatalf("templates %v, of which one is\n%s", values.SidecarInjectorWebhook.DefaultTemplates, overlay)
	}
	injected := meshed("injected", "")
	file := filepath.Join(t.TempDir(), "pod.yaml")
	if err := os.WriteFile(file, []byte(injected), 0o600); err != nil {
		t.Fatal(err)
	}
	got := s.Kubectl(t, "patch", "--local", "-f", file, "--type=strategic", "--patch", overlay, "-o", "yaml")
	line, rest, _ := strings.Cut(injected[strings.Index(injected, "    - {name: istio-validation"):], "\n")
	if diff := cmp.Diff(parsed(t, strings.Replace(injected, line+"\n", "", 1)), parsed(t, got)); diff != "" || rest == "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.Apply(t, got)
	s.Ready(t, "injected")
	s.byTheProxy(t, "injected")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "injected", "--now")
}

func parsed(t *testing.T, text string) map[string]any {
	t.Helper()
	var value map[string]any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}
