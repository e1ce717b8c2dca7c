// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/cri"
	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// TestBesideIstioCNI moves pods from Istio's own CNI plugin, in both dialects that it writes, to meshnetd and back.
func TestBesideIstioCNI(t *testing.T) {
	m := start(t)
	m.Kubectl(t, "delete", "-f", filepath.Join(kube.Root(t), "packaging", "admission", "required-plugin.yaml")) // it comes after a move
	m.run(t, plain)
	for _, dialect := range []string{"iptables", "nftables"} {
		m.chain(t, dialect == "nftables")
		t.Run(dialect, func(t *testing.T) { m.moves(t, dialect) })
	}
	t.Run("canary", func(t *testing.T) {
		came := cri.Client{Socket: m.C.Lab().Socket()}.Canary(t.Context(), appImage)
		if came.Err != nil || came.Refused == "" || len(came.Left) > 0 {
			t.Errorf("%+v", came)
		}
	})
}

// moves has pods of both, of Istio's plugin alone, and looks at them with meshnetd there and away.
func (m *mesh) moves(t *testing.T, dialect string) {
	both := pod{namespace: "shop", name: "both-" + dialect}
	m.run(t, both)
	m.protected(t, both)
	m.proxied(t, both, "both")
	t.Logf("%s, both at once: %s", dialect, m.event(t, both))

	m.withoutMeshnetd(t)
	// As pods were before their injector had the annotation: this one goes before it.
	alone := pod{namespace: "shop", name: "alone-" + dialect, annotations: map[string]string{"required-plugins.noderesource.dev/pod": "[]"}}
	m.run(t, alone)
	m.proxied(t, alone, "alone")

	m.Upgrade(t)
	verified := m.verified(t, alone)
	m.protected(t, both)
	for _, event := range []string{"pod_late", "pod_unprotected", "pod_stopped"} {
		if said := m.event(t, alone); strings.Contains(said, event) {
			t.Errorf("of a pod that has Istio's own rules: %s", said)
		}
	}
	t.Logf("%s, taken over: %s\n%s", dialect, verified, m.event(t, alone))
	m.proxied(t, alone, "taken")

	m.withoutMeshnetd(t)
	m.proxied(t, alone, "back")
	m.proxied(t, both, "back")
	m.Upgrade(t)
}

// verified waits until meshnetd finds in the kernel rules that are as good as its own.
func (m *mesh) verified(t *testing.T, p pod) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	out := ""
	var last error
	if err := lab.Poll(ctx, func() (bool, error) {
		out, last = m.C.Kubectl(ctx, "", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "verify", p.namespace+"/"+p.name)
		return last == nil, nil
	}); err != nil {
		t.Fatalf("%v: %v: %s", err, last, out)
	}
	return strings.TrimSpace(out)
}

// proxied sees that what a pod asks and is asked is in its proxy's access log.
func (m *mesh) proxied(t *testing.T, p pod, path string) {
	t.Helper()
	m.answered(t, "outside peer=", p.namespace, p.name, m.outside(0, outsidePort)+path)
	m.lines(t, p.namespace, p.name, "cluster=PassthroughCluster", "path=/"+path)
	m.answered(t, p.name+" peer=", "elsewhere", "plain", "http://"+m.addresses(t, p.namespace, p.name)[0].String()+":8080/in"+path)
	m.lines(t, p.namespace, p.name, "cluster=inbound|8080||", "path=/in"+path)
}

// event is the last line in which the running meshnetd tells of a pod.
func (m *mesh) event(t *testing.T, p pod) string {
	t.Helper()
	last := ""
	for line := range strings.Lines(m.Kubectl(t, "-n", "meshnetd-system", "logs", "ds/meshnetd")) {
		if strings.Contains(line, p.name) && strings.Contains(line, "pod_") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

func (m *mesh) withoutMeshnetd(t *testing.T) {
	t.Helper()
	m.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--cascade=foreground", "--wait")
}

// chain puts Istio's plugin behind the network's, as its DaemonSet does, in one dialect or the other.
func (m *mesh) chain(t *testing.T, native bool) {
	t.Helper()
	if err := m.chained(t, native); err != nil {
		t.Fatalf("rig: chain istio-cni: %v", err)
	}
}

func (m *mesh) chained(t *testing.T, native bool) error {
	dir := m.C.Lab().Dir()
	file, run := filepath.Join(dir, "cni", "10-lab.conflist"), filepath.Join(dir, "istio-cni")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var list struct {
		Version string           `json:"cniVersion"`
		Name    string           `json:"name"`
		Plugins []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	list.Plugins = append(list.Plugins[:1], map[string]any{"type": "istio-cni", "name": "istio-cni", "plugin_log_level": "info", "cni_agent_run_dir": run,
		"exclude_namespaces": []string{"kube-system"}, "native_nftables": native})
	program := filepath.Join(m.C.Lab().Binaries(), "cni", "istio-cni")
	if err := os.Symlink(m.program("istio-cni"), program); err == nil {
		t.Cleanup(func() { _ = os.Remove(program) })
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	kubeconfig, err := os.ReadFile(m.C.Kubeconfig())
	if err != nil {
		return err
	}
	if text, err = json.Marshal(list); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(run, 0o755), os.WriteFile(filepath.Join(run, "istio-cni-kubeconfig"), kubeconfig, 0o600), os.WriteFile(file, text, 0o600)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	return lab.Poll(ctx, func() (bool, error) { // containerd has read it
		status, err := m.C.Lab().CRI().Status(ctx, &criv1.StatusRequest{Verbose: true})
		said := strings.ReplaceAll(fmt.Sprint(status.GetInfo()), `\`, "")
		return err == nil && strings.Contains(said, fmt.Sprintf(`"native_nftables":%t`, native)), nil
	})
}
