// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// packaged returns the path of a file in packaging/.
func packaged(t *testing.T, name string) string {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "packaging", name)
}

// waiting is the file with which containers wait for meshnetd where their pod asks for it.
func waiting(t *testing.T, runtime lab.Runtime) string {
	t.Helper()
	if runtime.IsCRIO() {
		return packaged(t, "crio/10-meshnetd.conf")
	}
	return packaged(t, "containerd/meshnetd.toml")
}

// What packaging/ has for runtimes does on a real one what it says. The plugin is a stand-in: whether containers
// wait for it is the runtime's doing.
func TestPackaging(t *testing.T) {
	t.Run("where the pod asks for it", func(t *testing.T) {
		runtime := lab.Runtimes()[0]
		opts := labtest.Options(t, runtime)
		opts.Imports = []string{waiting(t, runtime)}
		l := labtest.Start(t, opts)
		annotation := injectedByValues(t, packaged(t, "istio/values.yaml"))
		meshed := labtest.RunPod(t, l, "meshed", annotation)
		plain := labtest.RunPod(t, l, "plain", nil)
		const overridden = "required-plugins.noderesource.dev/pod"
		undone := labtest.RunPod(t, l, "undone", map[string]string{overridden: "[]", "required-plugins.noderesource.dev": `["meshnetd"]`})
		malformed := labtest.RunPod(t, l, "malformed", map[string]string{"required-plugins.noderesource.dev": `["meshnetd"`})
		tolerant := map[string]string{"tolerate-missing-nri-plugins.noderesource.dev": "true"}
		for k, v := range annotation {
			tolerant[k] = v
		}

		refused(t, meshed, `required plugin "meshnetd" not present`)
		refused(t, labtest.RunPod(t, l, "tolerant", tolerant), `required plugin "meshnetd" not present`)
		refused(t, malformed, "invalid required-plugins.noderesource.dev annotation")
		started(t, plain)
		started(t, undone) // which is why there is an admission policy

		p := connect(t, l)
		started(t, meshed)
		started(t, plain)
		refused(t, malformed, "invalid required-plugins.noderesource.dev annotation")
		p.move(true)
		refused(t, plain, "restricted namespace adjustment")
		p.move(false)
		started(t, plain)

		p.stub.Stop()
		refused(t, meshed, "meshnetd") // at the latest by asking it, the runtime learns that it has gone
		refused(t, meshed, `required plugin "meshnetd" not present`)
		started(t, plain)
	})
	t.Run("meshnetd-required.toml", func(t *testing.T) {
		l := startLabImporting(t, packaged(t, "containerd/meshnetd-required.toml"))
		pods := []*lab.Pod{labtest.RunPod(t, l, "plain", nil)}
		for i, annotations := range []map[string]string{
			{"required-plugins.noderesource.dev": "[]"},
			{"required-plugins.noderesource.dev/pod": "[]"},
			{"tolerate-missing-nri-plugins.noderesource.dev": "true"},
			{"tolerate-missing-nri-plugins.noderesource.dev/pod": "true"},
		} {
			pods = append(pods, labtest.RunPod(t, l, fmt.Sprintf("wants-out-%d", i), annotations))
		}
		static, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Name: "static", Namespace: "kube-system", HostNetwork: true})
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, static)
		for _, pod := range pods {
			refused(t, pod, `required plugin "meshnetd" not present`)
		}
		both := labtest.RunPod(t, l, "both", map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`})
		refused(t, both, `required plugins "meshnetd,meshnetd" not present`)
		p := connect(t, l)
		for _, pod := range append(pods, both) {
			started(t, pod)
		}
		p.move(true)
		refused(t, pods[0], "restricted namespace adjustment")
	})
	t.Run("merged", func(t *testing.T) {
		const others = `["other"]`
		dropIn := func(name string) string { return packaged(t, "containerd/"+name) }
		for name, c := range map[string]struct {
			imports []string
			want    []string
		}{
			"another's list stays":   {[]string{dropIn("meshnetd.toml")}, []string{"other"}},
			"the strict one":         {[]string{dropIn("meshnetd-required.toml")}, []string{"meshnetd"}},
			"both, as conf.d has it": {[]string{dropIn("meshnetd-required.toml"), dropIn("meshnetd.toml")}, []string{"meshnetd"}},
		} {
			t.Run(name, func(t *testing.T) {
				if got := mergedRequired(t, others, c.imports); strings.Join(got, " ") != strings.Join(c.want, " ") {
					t.Errorf("required plugins %v, want %v", got, c.want)
				}
			})
		}
	})
}

// containerd would look for another path beside its own configuration, and not find it.
func TestImportsOfTheLab(t *testing.T) {
	err := lab.Options{Runtime: lab.Containerd24, Imports: []string{"meshnetd.toml"}}.Check()
	if err == nil || !strings.Contains(err.Error(), `import "meshnetd.toml" is not an absolute path`) {
		t.Errorf("got %v", err)
	}
}

// startLabImporting runs containerd 2.4 with drop-ins until the test ends.
func startLabImporting(t *testing.T, imports ...string) *lab.Lab {
	t.Helper()
	return labtest.Start(t, packagingOptions(t, imports...))
}

func packagingOptions(t *testing.T, imports ...string) lab.Options {
	t.Helper()
	opts := labtest.Options(t, lab.Containerd24)
	opts.Imports = imports
	return opts
}

// injectedByValues returns the annotations that Istio's injector writes with these values.
func injectedByValues(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		SidecarInjectorWebhook struct {
			InjectedAnnotations map[string]string `yaml:"injectedAnnotations"`
		} `yaml:"sidecarInjectorWebhook"`
	}
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	return values.SidecarInjectorWebhook.InjectedAnnotations
}

// mergedRequired returns the required plugins that containerd makes of its configuration and its imports.
func mergedRequired(t *testing.T, list string, imports []string) []string {
	t.Helper()
	opts := packagingOptions(t)
	quoted := make([]string, len(imports))
	for i, path := range imports {
		quoted[i] = fmt.Sprintf("%q", path)
	}
	file := filepath.Join(t.TempDir(), "config.toml")
	text := fmt.Sprintf("version = 3\nimports = [%s]\n[plugins.%q.default_validator]\nrequired_plugins = %s\n",
		strings.Join(quoted, ", "), "io.containerd.nri.v1.nri", list)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dump, err := exec.Command(filepath.Join(opts.Binaries, string(opts.Runtime), "containerd"), "-c", file, "config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Plugins map[string]struct {
			DefaultValidator struct {
				Enable          bool
				RequiredPlugins []string `toml:"required_plugins"`
			} `toml:"default_validator"`
		}
	}
	if _, err := toml.Decode(string(dump), &config); err != nil {
		t.Fatal(err)
	}
	validator := config.Plugins["io.containerd.nri.v1.nri"].DefaultValidator
	if !validator.Enable {
		t.Error("the validator is not enabled")
	}
	return validator.RequiredPlugins
}

// createAny creates one more container in the pod.
func createAny(t *testing.T, pod *lab.Pod) error {
	t.Helper()
	_, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: "app-" + strings.ToLower(rand.Text())})
	return err
}

func started(t *testing.T, pod *lab.Pod) {
	t.Helper()
	if err := createAny(t, pod); err != nil {
		t.Errorf("pod %s: %v", pod.Spec.Name, err)
	}
}

func refused(t *testing.T, pod *lab.Pod, why string) {
	t.Helper()
	err := createAny(t, pod)
	if err == nil {
		t.Errorf("pod %s: a container was started, want: %s", pod.Spec.Name, why)
	} else if !strings.Contains(err.Error(), why) {
		t.Errorf("pod %s: got %v\nwant %s", pod.Spec.Name, err, why)
	}
}

// standInPlugin is a plugin by meshnetd's name that lets everything through. It validates, as meshnetd does: the
// runtime notices only by asking that a plugin has gone, and would let the first container after it start.
type standInPlugin struct {
	stub   stub.Stub
	synced chan struct{}

	mu     sync.Mutex
	moving bool // containers to another network namespace
}

// connect connects a plugin to the lab's containerd, and returns when the runtime counts it as there.
func connect(t *testing.T, l *lab.Lab) *standInPlugin {
	t.Helper()
	p := &standInPlugin{synced: make(chan struct{})}
	s, err := stub.New(p, stub.WithPluginName("meshnetd"), stub.WithPluginIdx("95"), stub.WithSocketPath(l.NRISocket()),
		stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	p.stub = s
	if err := s.Start(labtest.Within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	select {
	case <-p.synced:
	case <-time.After(30 * time.Second):
		t.Fatal("the plugin is not synchronized")
	}
	return p
}

// Synchronize is the last step of becoming a plugin that counts.
func (p *standInPlugin) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	close(p.synced)
	return nil, nil
}

// CreateContainer moves the container if it is told to.
func (p *standInPlugin) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.moving {
		return nil, nil, nil
	}
	adjust := &api.ContainerAdjustment{}
	adjust.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/proc/1/ns/net"})
	return adjust, nil, nil
}

// ValidateContainerAdjustment has nothing against any container.
func (p *standInPlugin) ValidateContainerAdjustment(context.Context, *api.ValidateContainerAdjustmentRequest) error {
	return nil
}

func (p *standInPlugin) move(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moving = on
}
