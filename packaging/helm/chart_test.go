// SPDX-License-Identifier: Apache-2.0

// Package helm holds the chart. Its tests lint and render it with the Helm that tool.sh pins; what the pods do is
// shown in integration/kube.
package helm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/kubelet"
)

// object is a Kubernetes object as it is rendered.
type object map[string]any

// at returns what is at the keys, or nil.
func (o object) at(keys ...string) any {
	var value any = map[string]any(o)
	for _, key := range keys {
		fields, _ := value.(map[string]any)
		value = fields[key]
	}
	return value
}

func tool(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("../tool.sh", name).Output()
	if err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// render renders the chart with values, YAML.
func render(t *testing.T, values string, args ...string) ([]object, error) {
	t.Helper()
	out, err := renderText(t, values, args...)
	if err != nil {
		return nil, err
	}
	return decode(t, out), nil
}

func renderText(t *testing.T, values string, args ...string) ([]byte, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(tool(t, "helm"), append([]string{"template", "meshnetd", "meshnetd", "--namespace", "mesh", "--kube-version", "1.36.0", "-f", file}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New(stderr.String())
	}
	return out, nil
}

func decode(t *testing.T, text []byte) []object {
	t.Helper()
	var objects []object
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o map[string]any // of an object the decoder would make objects all the way down
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
}

func kinds(objects []object) []string {
	var all []string
	for _, o := range objects {
		all = append(all, o["kind"].(string))
	}
	slices.Sort(all)
	return all
}

func find(t *testing.T, objects []object, kind string) object {
	t.Helper()
	for _, o := range objects {
		if o["kind"] == kind {
			return o
		}
	}
	t.Fatalf("no %s among %v", kind, kinds(objects))
	return nil
}

func TestLint(t *testing.T) {
	for _, values := range []string{"values.yaml", "values-openshift.yaml"} {
		cmd := exec.Command(tool(t, "helm"), "lint", "--strict", "--kube-version", "1.36.0", "meshnetd", "-f", filepath.Join("meshnetd", values))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", values, err, out)
		}
	}
}

// The plain manifests are what the chart gives now. `make manifests` writes them.
func TestManifests(t *testing.T) {
	want, err := os.ReadFile("../kubernetes/meshnetd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("./render.sh").Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run make manifests (-file +chart):\n%s", diff)
	}
}

// What stands in the cluster, and nothing by which meshnetd could ask it anything.
func TestObjects(t *testing.T) {
	for _, test := range []struct {
		values string
		want   []string
	}{
		{"", []string{"ConfigMap", "DaemonSet", "ServiceAccount"}},
		{everything, []string{"ClusterRole", "ConfigMap", "DaemonSet", "Namespace", "PodMonitor", "Role", "Role", "SecurityContextConstraints", "Service", "ServiceAccount"}},
	} {
		objects, err := render(t, test.values)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, kinds(objects)); diff != "" {
			t.Errorf("with %q (-want +got):\n%s", test.values, diff)
		}
		if token := find(t, objects, "ServiceAccount")["automountServiceAccountToken"]; token != false {
			t.Errorf("the account's token is mounted: %v", token)
		}
	}
}

// Who reads can neither run nor change anything, and who runs commands needs a Role of its own. Nobody has them unasked.
func TestRoles(t *testing.T) {
	objects, err := render(t, "metrics: {enabled: true}\nkubectl: {read: true}")
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(o object) map[string]bool {
		all := map[string]bool{}
		for _, rule := range o["rules"].([]any) {
			for _, resource := range object(rule.(map[string]any))["resources"].([]any) {
				for _, verb := range object(rule.(map[string]any))["verbs"].([]any) {
					all[verb.(string)+" "+resource.(string)] = true
				}
			}
		}
		return all
	}
	if slices.Contains(kinds(objects), "RoleBinding") || slices.Contains(kinds(objects), "ClusterRoleBinding") {
		t.Errorf("somebody has the Roles: %v", kinds(objects))
	}
	if diff := cmp.Diff(map[string]bool{"get pods": true, "list pods": true, "get pods/proxy": true, "get configmaps": true}, allowed(find(t, objects, "Role"))); diff != "" {
		t.Errorf("in meshnetd's namespace (-want +got):\n%s", diff)
	}
	for what := range allowed(find(t, objects, "ClusterRole")) {
		if verb, _, _ := strings.Cut(what, " "); verb != "get" && verb != "list" {
			t.Errorf("readers may %s", what)
		}
	}
	text := find(t, objects, "ConfigMap").at("data", "meshnetd.toml").(string)
	if got, err := config.Parse("meshnetd.toml", text); err != nil || !got.Metrics.Status {
		t.Errorf("there is nothing to read: %v in\n%s", err, text)
	}
	if objects, err = render(t, "kubectl: {exec: true}"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{"get pods/exec": true, "create pods/exec": true}, allowed(find(t, objects, "Role"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// There is nothing to read where nothing is served.
func TestReadersNeedTheirEndpoint(t *testing.T) {
	if _, err := render(t, "kubectl: {read: true}"); err == nil || !strings.Contains(err.Error(), "metrics/enabled") && !strings.Contains(err.Error(), "metrics.enabled") {
		t.Errorf("got %v", err)
	}
}

const everything = `
kubectl: {read: true, exec: true}
metrics: {enabled: true, service: true, podMonitor: {enabled: true, labels: {team: mesh}}}
openshift: {enabled: true}
namespace: {create: true}
cri: {directory: /run/containerd}
extraCapabilities: [NET_RAW]
config: |
  log.level = "debug"
  [istio]
  dns_capture = true
`

func TestDaemonSet(t *testing.T) {
	objects, err := render(t, "")
	if err != nil {
		t.Fatal(err)
	}
	set := find(t, objects, "DaemonSet")
	pod := object(set.at("spec", "template", "spec").(map[string]any))
	containers := pod["containers"].([]any)
	if len(containers) != 1 || pod["initContainers"] != nil {
		t.Fatalf("containers %v, init containers %v", containers, pod["initContainers"])
	}
	container := object(containers[0].(map[string]any))
	type list = []any
	type dict = map[string]any
	for what, values := range map[string][2]any{
		"update":      {set.at("spec", "updateStrategy"), dict{"type": "RollingUpdate", "rollingUpdate": dict{"maxSurge": 1, "maxUnavailable": 0}}},
		"priority":    {pod["priorityClassName"], "system-node-critical"},
		"tolerations": {pod["tolerations"], list{dict{"operator": "Exists"}}},
		"token":       {pod["automountServiceAccountToken"], false},
		"hostNetwork": {pod["hostNetwork"], true},
		"hostPID":     {pod["hostPID"], nil},
		"hostIPC":     {pod["hostIPC"], nil},
		"pod security": {pod["securityContext"], dict{
			"appArmorProfile": dict{"type": "Unconfined"}, "seccompProfile": dict{"type": "RuntimeDefault"}}},
		"security": {container["securityContext"], dict{
			"runAsUser": 0, "runAsGroup": 0, "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": dict{"drop": list{"ALL"}, "add": list{"SYS_ADMIN", "NET_ADMIN"}}}},
		// A port would keep the new pod of an upgrade waiting for the old one.
		"ports": {container["ports"], nil},
		"pull":  {container["imagePullPolicy"], "IfNotPresent"},
		"env":   {container["env"], nil},
		"volumes": {pod["volumes"], list{
			dict{"name": "config", "configMap": dict{"name": "meshnetd"}},
			dict{"name": "run", "emptyDir": dict{"medium": "Memory", "sizeLimit": "1Mi"}},
			dict{"name": "locks", "hostPath": dict{"path": "/run/meshnetd-locks", "type": "DirectoryOrCreate"}},
			dict{"name": "nri", "hostPath": dict{"path": "/var/run/nri", "type": "DirectoryOrCreate"}},
			dict{"name": "netns-0", "hostPath": dict{"path": "/var/run/netns", "type": "DirectoryOrCreate"}},
			dict{"name": "netns-1", "hostPath": dict{"path": "/run/netns", "type": "DirectoryOrCreate"}}}},
		"mounts": {container["volumeMounts"], list{
			dict{"name": "config", "mountPath": "/etc/meshnetd", "readOnly": true},
			dict{"name": "run", "mountPath": "/run/meshnetd"},
			dict{"name": "locks", "mountPath": "/run/meshnetd-locks"},
			dict{"name": "nri", "mountPath": "/var/run/nri", "readOnly": true},
			dict{"name": "netns-0", "mountPath": "/var/run/netns", "readOnly": true, "mountPropagation": "HostToContainer"},
			dict{"name": "netns-1", "mountPath": "/run/netns", "readOnly": true, "mountPropagation": "HostToContainer"}}},
	} {
		if diff := cmp.Diff(values[1], values[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	// The old pod of an upgrade goes when the new one is ready, and one that waits for the runtime is not started anew.
	for probe, command := range map[string]string{"startupProbe": "status", "livenessProbe": "status", "readinessProbe": "ready"} {
		if diff := cmp.Diff(list{"/usr/bin/meshnetd", command}, container.at(probe, "exec", "command")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", probe, diff)
		}
	}
}

// With every value, the DaemonSet has what the value asks for.
func TestValues(t *testing.T) {
	objects, err := render(t, everything, "--set", "image.repository=registry.invalid:5000/a/b", "--set", "image.tag=v1")
	if err != nil {
		t.Fatal(err)
	}
	pod := object(find(t, objects, "DaemonSet").at("spec", "template", "spec").(map[string]any))
	container := object(pod["containers"].([]any)[0].(map[string]any))
	if image := container["image"]; image != "registry.invalid:5000/a/b:v1" {
		t.Errorf("image %v", image)
	}
	scc := find(t, objects, "SecurityContextConstraints")
	if diff := cmp.Diff(container.at("securityContext", "capabilities", "add"), scc["allowedCapabilities"]); diff != "" {
		t.Errorf("the SCC allows other capabilities than the container adds (-container +scc):\n%s", diff)
	}
	if diff := cmp.Diff([]any{"system:serviceaccount:mesh:meshnetd"}, scc["users"]); diff != "" {
		t.Errorf("the SCC is for (-want +got):\n%s", diff)
	}
	if scc["allowPrivilegedContainer"] != false || pod.at("securityContext", "seLinuxOptions", "type") != "spc_t" {
		t.Error("on OpenShift it is privileged, or not of the type that may use the node's sockets")
	}
	mounts := container["volumeMounts"].([]any)
	if diff := cmp.Diff(map[string]any{"name": "cri", "mountPath": "/run/containerd", "readOnly": true}, mounts[len(mounts)-1]); diff != "" {
		t.Errorf("the CRI socket (-want +got):\n%s", diff)
	}
	if objects, err = render(t, "kubelet: {podsAPI: true, directory: /opt/kubelet}"); err != nil {
		t.Fatal(err)
	}
	pod = object(find(t, objects, "DaemonSet").at("spec", "template", "spec").(map[string]any))
	mounts = object(pod["containers"].([]any)[0].(map[string]any))["volumeMounts"].([]any)
	if diff := cmp.Diff(map[string]any{"name": "pods-api", "mountPath": filepath.Dir(kubelet.Socket), "readOnly": true}, mounts[len(mounts)-1]); diff != "" {
		t.Errorf("the kubelet's Pods API (-want +got):\n%s", diff)
	}
	volumes := pod["volumes"].([]any)
	if diff := cmp.Diff(map[string]any{"name": "pods-api", "hostPath": map[string]any{"path": "/opt/kubelet/pods-api", "type": "DirectoryOrCreate"}}, volumes[len(volumes)-1]); diff != "" {
		t.Errorf("the kubelet's directory (-want +got):\n%s", diff)
	}
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	objects, err = render(t, "image: {digest: \""+digest+"\", tag: v1}")
	if err != nil {
		t.Fatal(err)
	}
	container = find(t, objects, "DaemonSet").at("spec", "template", "spec", "containers").([]any)[0].(map[string]any)
	if image := container["image"]; image != "localhost/meshnetd/meshnetd@"+digest {
		t.Errorf("by digest: image %v", image)
	}
}

// The ConfigMap is a configuration that meshnetd takes, and another one makes other pods.
func TestConfiguration(t *testing.T) {
	sums := map[any]string{}
	for _, values := range []string{"", everything, "config: \"ipv6 = \\\"block\\\"\"", "metrics: {enabled: true}", "metrics: {enabled: true, port: 16000}"} {
		objects, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		text := find(t, objects, "ConfigMap").at("data", "meshnetd.toml").(string)
		got, err := config.Parse("meshnetd.toml", text)
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
		if got.HostNetNS != "/proc/self/ns/net" {
			t.Errorf("host_netns = %q in\n%s", got.HostNetNS, text)
		}
		want := ""
		switch {
		case strings.Contains(values, "16000"):
			want = "[::]:16000"
		case strings.Contains(values, "enabled: true, service") || strings.Contains(values, "metrics: {enabled: true}"):
			want = "[::]:15990"
		}
		if got.Metrics.Address != want {
			t.Errorf("metrics at %q, want %q, in\n%s", got.Metrics.Address, want, text)
		}
		if values == everything && (!got.Istio.DNSCapture || got.Log.Level != "debug") {
			t.Errorf("the values' own configuration is not taken:\n%s", text)
		}
		sum := find(t, objects, "DaemonSet").at("spec", "template", "metadata", "annotations", "meshnetd.io/config")
		if other, taken := sums[sum]; taken || sum == nil {
			t.Errorf("%q and %q have the same checksum %v", values, other, sum)
		}
		sums[sum] = values
	}
}
