// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// patience is what a pod may take, with the kubelet's pauses between its attempts.
const patience = 2 * time.Minute

// TestStory is what happens to a cluster with the chart: tenants under Pod Security's strictest level, with the
// image and the chart as they are delivered.
func TestStory(t *testing.T) {
	s := &story{c: start(t), helm: helmTool(t)}
	s.install(t)
	s.kubectl(t, "create", "namespace", "shop")
	s.kubectl(t, "label", "namespace", "shop", "pod-security.kubernetes.io/enforce=restricted")
	t.Run("upgrade", s.upgrades)
	t.Run("manifests", s.manifests)
	t.Run("privileges", s.privileges)
	t.Run("first connection", s.firstConnection)
	t.Run("plugin", s.plugin)
	t.Run("two families", s.twoFamilies)
	t.Run("init container", s.initContainer)
	t.Run("without validation", s.withoutValidation)
	t.Run("bad annotation", s.badAnnotation)
	t.Run("workloads", s.workloads)
	t.Run("host network", s.hostNetwork)
	t.Run("absent", s.absent)
	t.Run("stuck", s.stuck)
	t.Run("power", s.power)
	t.Run("admission", s.admission) // last: it stays
}

type story struct {
	c      *Cluster
	helm   string
	client *http.Client // of the API server; nil before its first use
}

func root(t *testing.T) string {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func helmTool(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(root(t), "packaging", "tool.sh"), "helm").Output()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// install installs a meshnetd of an earlier time, with its own chart.
func (s *story) install(t *testing.T) {
	t.Helper()
	s.images(t)
	s.namespace(t)
	if err := s.release(t.Context(), filepath.Join(os.Getenv("MESHNETD_FROZEN"), "meshnetd"), "frozen"); err != nil {
		t.Fatal(err)
	}
}

// images imports the image, of version and tag "kube", and that of the earlier time.
func (s *story) images(t *testing.T) {
	t.Helper()
	for _, image := range []string{os.Getenv("MESHNETD_IMAGE"), filepath.Join(os.Getenv("MESHNETD_FROZEN"), "meshnetd.tar")} {
		if err := s.c.Import(t.Context(), image); err != nil {
			t.Fatalf("%s: %v", image, err)
		}
	}
}

func (s *story) namespace(t *testing.T) {
	t.Helper()
	s.kubectl(t, "create", "namespace", "meshnetd-system")
	s.kubectl(t, "label", "namespace", "meshnetd-system", "pod-security.kubernetes.io/enforce=privileged")
}

// chart is this source tree's.
func chart(t *testing.T) string {
	t.Helper()
	return filepath.Join(root(t), "packaging", "helm", "meshnetd")
}

// upgrade installs the chart with the image, and waits until the runtime has it as a plugin.
func (s *story) upgrade(t *testing.T) {
	t.Helper()
	begin := time.Now()
	if err := s.release(t.Context(), chart(t), "kube"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "nri_connected", "-n", "meshnetd-system", "logs", "ds/meshnetd")
	t.Logf("meshnetd installed in %s", time.Since(begin).Round(time.Millisecond))
}

// release is what an operator does. It returns when every node has the image.
func (s *story) release(ctx context.Context, chart, tag string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := s.c.Helm(ctx, s.helm, append(s.command(chart, s.values(tag)), "--install", "--wait", "--timeout", "90s")...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// command upgrades the release to these values.
func (s *story) command(chart string, values map[string]string) []string {
	args := []string{"upgrade", "meshnetd", chart, "--namespace", "meshnetd-system"}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		args = append(args, "--set", key+"="+values[key])
	}
	return args
}

// values are those of this node.
func (s *story) values(tag string) map[string]string {
	values := map[string]string{"image.tag": tag, "image.pullPolicy": "Never",
		"nri.directory": s.c.Lab().Dir(), "netns.directories": "{" + s.c.NetNSDir() + "}"}
	if tag == "kube" { // the earlier chart has nobody to ask
		values["metrics.enabled"], values["kubectl.read"], values["kubectl.exec"] = "true", "true", "true"
	}
	return values
}

// The app's first act is a connection, and the proxy gets it; the kubelet's probe gets by the proxy to the app.
func (s *story) firstConnection(t *testing.T) {
	s.apply(t, meshed("web", ""))
	s.ready(t, "web")
	s.byTheProxy(t, "web")
	proxied := s.kubectl(t, "-n", "shop", "logs", "web", "-c", "istio-proxy") // the pod is ready by this probe
	if !strings.Contains(proxied, `"listener":"inbound"`) || !strings.Contains(proxied, ":8080") {
		t.Errorf("the kubelet's probe did not come by the proxy: %s", proxied)
	}
	s.kubectl(t, "-n", "shop", "delete", "pod", "web", "--now")
}

// The author of a pod reads what is wrong with it, and mends it where it is.
func (s *story) badAnnotation(t *testing.T) {
	const annotation = "traffic.sidecar.istio.io/includeInboundPorts"
	s.apply(t, meshed("broken", annotation+`: "8080,http"`))
	s.wait(t, `annotation `+annotation+`: "8080,http": item 2, "http", is not a port`, "-n", "shop", "describe", "pod", "broken")
	s.kubectl(t, "-n", "shop", "annotate", "--overwrite", "pod/broken", annotation+"=8080")
	s.ready(t, "broken")
	s.byTheProxy(t, "broken")
	s.kubectl(t, "-n", "shop", "delete", "pod", "broken", "--now")
}

// Without meshnetd pods of the mesh wait and others start; with it again, they start.
func (s *story) absent(t *testing.T) {
	s.kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--cascade=foreground", "--wait")
	s.apply(t, meshed("waits", "")+"---"+plain("plain"))
	s.ready(t, "plain")
	s.wait(t, `required plugin "meshnetd" not present`, "-n", "shop", "describe", "pod", "waits")
	if started := s.kubectl(t, "-n", "shop", "get", "pod", "waits", "-o",
		"jsonpath={.status.initContainerStatuses[*].containerID}{.status.containerStatuses[*].containerID}"); started != "" {
		t.Errorf("containers of the mesh ran without meshnetd: %s", started)
	}
	s.upgrade(t)
	s.ready(t, "waits")
	s.byTheProxy(t, "waits")
	s.kubectl(t, "-n", "shop", "delete", "pod", "waits", "plain", "--now")
}

// byTheProxy waits until the app's first connection has ended at the proxy: a pod can be ready before that.
func (s *story) byTheProxy(t *testing.T, pod string) {
	t.Helper()
	s.wait(t, `"reply":"outbound original_dst=203.0.113.10:443"`, "-n", "shop", "logs", pod, "-c", "app")
}

func (s *story) ready(t *testing.T, pod string) {
	t.Helper()
	begin := time.Now()
	s.kubectl(t, "-n", "shop", "wait", "pod/"+pod, "--for=condition=Ready", "--timeout="+patience.String())
	t.Logf("%s ready after %s", pod, time.Since(begin).Round(time.Millisecond))
}

func (s *story) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+10*time.Second)
	defer cancel()
	out, err := s.c.Kubectl(ctx, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *story) apply(t *testing.T, manifest string) {
	t.Helper()
	if out, err := s.c.Kubectl(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// wait runs kubectl until it says the text. The API server's and the log's quotes are taken for plain ones.
func (s *story) wait(t *testing.T, text string, args ...string) {
	t.Helper()
	s.waitInput(t, text, "", args...)
}

// waitInput does so with a standard input. What kubectl says when it fails counts, too.
func (s *story) waitInput(t *testing.T, text, input string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := ""
	err := lab.Poll(ctx, func() (bool, error) {
		out, err := s.c.Kubectl(ctx, input, args...)
		if err != nil {
			out += err.Error()
		}
		last = strings.ReplaceAll(out, `\`, "")
		return strings.Contains(last, text), nil
	})
	if err != nil {
		t.Fatalf("kubectl %v never had %q (%v), but at last\n%s", args, text, err, last)
	}
}
