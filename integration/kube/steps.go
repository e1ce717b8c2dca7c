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

// Patience is what a pod may take, with the kubelet's pauses between its attempts.
const Patience = 2 * time.Minute

// Steps are what people do to a cluster, for a test: the first that fails ends it. Tenants are in the namespace shop.
type Steps struct {
	C      *Cluster
	Helm   string // the program
	Config string // of meshnetd, as its file has it

	client *http.Client // of the API server; nil before its first use
}

// NewSteps are those of this cluster, with the chart's Helm.
func NewSteps(t *testing.T, c *Cluster) *Steps {
	t.Helper()
	return &Steps{C: c, Helm: helmTool(t)}
}

// options are a cluster on programs that `make test-kube` builds.
func options(t *testing.T) Options {
	t.Helper()
	kubernetes, runtimes := os.Getenv("MESHNETD_KUBERNETES"), os.Getenv("MESHNETD_RUNTIMES")
	if kubernetes == "" || runtimes == "" {
		t.Skip("runs by make test-kube")
	}
	return Options{Binaries: kubernetes, Plugins: os.Getenv("MESHNETD_PLUGINS"), Log: t.Output(),
		Lab: lab.Options{Runtime: lab.Containerd24, Binaries: runtimes, DefaultValidator: true, DualStack: true, Log: t.Output()}}
}

// Run runs a cluster for the test, whose kubelet has these arguments too.
func Run(t *testing.T, kubelet ...string) *Cluster {
	t.Helper()
	opts := options(t)
	opts.KubeletArgs = kubelet
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	stop := closeInTime(t, c)
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			c.Tell(t)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Tell writes what helps to see why a test failed.
func (c *Cluster) Tell(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "meshnetd-system", "-l", "app.kubernetes.io/name=meshnetd", "--tail=40"},
	} {
		out, err := c.Kubectl(ctx, "", args...)
		t.Logf("kubectl %v: %v\n%s", args, err, out)
	}
	for _, p := range c.processes {
		t.Logf("%s%s", filepath.Base(p.log), p.tail())
	}
}

func Root(t *testing.T) string {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func helmTool(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(Root(t), "packaging", "tool.sh"), "helm").Output()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// Images imports the image, of version and tag "kube", and that of the earlier time.
func (s *Steps) Images(t *testing.T) {
	t.Helper()
	for _, image := range []string{os.Getenv("MESHNETD_IMAGE"), filepath.Join(os.Getenv("MESHNETD_FROZEN"), "meshnetd.tar")} {
		if err := s.C.Import(t.Context(), image); err != nil {
			t.Fatalf("%s: %v", image, err)
		}
	}
}

func (s *Steps) System(t *testing.T) {
	t.Helper()
	s.Kubectl(t, "create", "namespace", "meshnetd-system")
	s.Kubectl(t, "label", "namespace", "meshnetd-system", "pod-security.kubernetes.io/enforce=privileged")
}

// Chart is this source tree's.
func Chart(t *testing.T) string {
	t.Helper()
	return filepath.Join(Root(t), "packaging", "helm", "meshnetd")
}

// Upgrade installs the chart with the image, and waits until the runtime has it as a plugin.
func (s *Steps) Upgrade(t *testing.T) {
	t.Helper()
	begin := time.Now()
	if err := s.Release(t.Context(), Chart(t), "kube"); err != nil {
		t.Fatal(err)
	}
	s.Wait(t, "nri_connected", "-n", "meshnetd-system", "logs", "ds/meshnetd")
	t.Logf("meshnetd installed in %s", time.Since(begin).Round(time.Millisecond))
}

// Release is what an operator does. It returns when every node has the image.
func (s *Steps) Release(ctx context.Context, chart, tag string) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	out, err := s.C.Helm(ctx, s.Helm, append(s.command(chart, s.Values(tag)), "--install", "--wait", "--timeout", "90s")...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// command upgrades the release to these values.
func (s *Steps) command(chart string, values map[string]string) []string {
	args := []string{"upgrade", "meshnetd", chart, "--namespace", "meshnetd-system"}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		args = append(args, "--set", key+"="+values[key])
	}
	return args
}

// Values are those of this node.
func (s *Steps) Values(tag string) map[string]string {
	values := map[string]string{"image.tag": tag, "image.pullPolicy": "Never",
		"nri.directory": s.C.Lab().Dir(), "netns.directories": "{" + s.C.NetNSDir() + "}"}
	if s.Config != "" {
		values["config"] = s.Config
	}
	if tag == "kube" { // the earlier chart has nobody to ask
		values["metrics.enabled"], values["kubectl.read"], values["kubectl.exec"] = "true", "true", "true"
	}
	return values
}

func (s *Steps) Ready(t *testing.T, pod string) {
	t.Helper()
	begin := time.Now()
	s.Kubectl(t, "-n", "shop", "wait", "pod/"+pod, "--for=condition=Ready", "--timeout="+Patience.String())
	t.Logf("%s ready after %s", pod, time.Since(begin).Round(time.Millisecond))
}

func (s *Steps) Kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience+10*time.Second)
	defer cancel()
	out, err := s.C.Kubectl(ctx, "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *Steps) Apply(t *testing.T, manifest string) {
	t.Helper()
	if out, err := s.C.Kubectl(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Wait runs kubectl until it says the text. The API server's and the log's quotes are taken for plain ones.
func (s *Steps) Wait(t *testing.T, text string, args ...string) {
	t.Helper()
	s.WaitInput(t, text, "", args...)
}

// WaitInput does so with a standard input. What kubectl says when it fails counts, too.
func (s *Steps) WaitInput(t *testing.T, text, input string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	last := ""
	err := lab.Poll(ctx, func() (bool, error) {
		out, err := s.C.Kubectl(ctx, input, args...)
		if err != nil {
			out += err.Error()
		}
		if ctx.Err() == nil { // else it says no more than that time is over
			last = strings.ReplaceAll(out, `\`, "")
		}
		return strings.Contains(last, text), nil
	})
	if err != nil {
		t.Fatalf("kubectl %v never had %q (%v), but at last\n%s", args, text, err, last)
	}
}
