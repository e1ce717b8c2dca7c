// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// binary builds meshnetd once, with the race detector.
var binary = sync.OnceValues(func() (string, error) {
	root, err := lab.FindRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "build", "meshnetd-race")
	build := exec.Command("go", "build", "-race", "-o", path, "./cmd/meshnetd")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build meshnetd: %w\n%s", err, out)
	}
	return path, nil
})

// startLab runs a private containerd until the test ends.
func startLab(t *testing.T, version lab.Version) *lab.Lab {
	t.Helper()
	binaries := os.Getenv("MESHNETD_RUNTIMES")
	if binaries == "" {
		root, err := lab.FindRoot()
		if err != nil {
			t.Fatal(err)
		}
		binaries = filepath.Join(root, "build", "runtimes")
	}
	opts := lab.Options{Version: version, Binaries: binaries, DualStack: true, Log: t.Output()}
	if err := opts.Check(); err != nil {
		if os.Getenv("MESHNETD_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l, err := lab.Start(within(t, time.Minute), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func forEachRuntime(t *testing.T, test func(t *testing.T, l *lab.Lab)) {
	for _, version := range lab.Versions() {
		t.Run(string(version), func(t *testing.T) { test(t, startLab(t, version)) })
	}
}

// line is one line of meshnetd's log.
type line struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Pod     string    `json:"pod"`
	Sandbox string    `json:"sandbox"`
	Reason  string    `json:"reason"`
	Message string    `json:"msg"`
	Changed bool      `json:"changed"`
	Runtime string    `json:"runtime"`
	Version string    `json:"version"`
}

// process is a running meshnetd.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error

	mu    sync.Mutex
	lines []line
	raw   strings.Builder
	news  chan struct{} // closed and replaced with each line
}

// runDaemon starts meshnetd for a lab and waits until it is connected.
func runDaemon(t *testing.T, l *lab.Lab) *process {
	t.Helper()
	config := filepath.Join(t.TempDir(), "meshnetd.toml")
	text := fmt.Sprintf("[nri]\nsocket = %q\n[log]\nformat = \"json\"\nlevel = \"debug\"\n[istio]\ndual_stack = true\n", l.NRISocket())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(path, "run", "--config", config), exited: make(chan struct{}), news: make(chan struct{})}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			p.read(s.Bytes())
		}
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		<-p.exited
		if strings.Contains(p.raw.String(), "DATA RACE") || t.Failed() {
			t.Errorf("log of meshnetd:\n%s", p.raw.String())
		}
	})
	p.wait(t, func(l line) bool { return l.Event == "nri_connected" })
	return p
}

func (p *process) read(text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raw.Write(append(text, '\n'))
	var l line
	if json.Unmarshal(text, &l) == nil {
		p.lines = append(p.lines, l)
	}
	close(p.news)
	p.news = make(chan struct{})
}

// wait returns the first line, of those already read and those to come, that match accepts.
func (p *process) wait(t *testing.T, match func(line) bool) line {
	t.Helper()
	limit := time.After(20 * time.Second)
	for next := 0; ; {
		p.mu.Lock()
		lines, news := p.lines, p.news
		p.mu.Unlock()
		for ; next < len(lines); next++ {
			if match(lines[next]) {
				return lines[next]
			}
		}
		select {
		case <-news:
		case <-p.exited:
			t.Fatalf("meshnetd ended: %v\n%s", p.err, p.raw.String())
		case <-limit:
			t.Fatalf("meshnetd did not say it; it said\n%s", p.raw.String())
		}
	}
}

// event waits for an event about a pod.
func (p *process) event(t *testing.T, event, pod string) line {
	t.Helper()
	return p.wait(t, func(l line) bool { return l.Event == event && l.Pod == pod })
}

// terminate sends SIGTERM and expects a clean end.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		t.Fatal("meshnetd does not end on SIGTERM")
	}
	if p.err != nil {
		t.Errorf("meshnetd ended with %v", p.err)
	}
}

// kill ends the daemon as an out-of-memory killer would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
}

// injected is what Istio's injector writes on a pod in CNI mode.
func injected(more ...string) map[string]string {
	annotations := map[string]string{
		"sidecar.istio.io/status": `{"initContainers":["istio-validation","istio-proxy"],"containers":null,` +
			`"volumes":["workload-socket"],"imagePullSecrets":null,"revision":"default"}`,
		"sidecar.istio.io/interceptionMode":                "REDIRECT",
		"traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
		"traffic.sidecar.istio.io/includeInboundPorts":     "*",
		"traffic.sidecar.istio.io/excludeInboundPorts":     "15020",
		"istio.io/rev": "default",
	}
	for i := 0; i+1 < len(more); i += 2 {
		annotations[more[i]] = more[i+1]
	}
	return annotations
}

func runPod(t *testing.T, l *lab.Lab, name string, annotations map[string]string) *lab.Pod {
	t.Helper()
	pod, err := l.RunPod(within(t, 30*time.Second), lab.PodSpec{Name: name, Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func runContainer(t *testing.T, pod *lab.Pod, name string, uid int, args ...string) *lab.Container {
	t.Helper()
	c, err := pod.RunContainer(within(t, 30*time.Second), lab.ContainerSpec{Name: name, Args: args, User: int64(uid), Group: int64(uid)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runProxy runs the stand-in proxy and waits for its listeners.
func runProxy(t *testing.T, pod *lab.Pod) *lab.Container {
	t.Helper()
	c := runContainer(t, pod, "istio-proxy", proxy, "proxy")
	for _, addr := range proxyListeners {
		if _, err := c.WaitFor(within(t, 10*time.Second), func(e lab.Event) bool { return e.Event == "listening" && e.Addr == addr }); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// runServer runs a server on a port of both families.
func runServer(t *testing.T, pod *lab.Pod, port, name string) []*lab.Container {
	t.Helper()
	var all []*lab.Container
	for family, addr := range map[string]string{"4": "0.0.0.0:", "6": "[::]:"} {
		c := runContainer(t, pod, name+family, app, "serve", addr+port, name)
		if _, err := c.WaitEvent(within(t, 10*time.Second), "listening"); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// firstAct runs a container whose first act is connect(), and returns what it reached.
func firstAct(ctx context.Context, pod *lab.Pod, uid int, network, addr string) (string, error) {
	c, err := pod.RunContainer(ctx, lab.ContainerSpec{Name: fmt.Sprintf("dial-%d-%s", uid, strings.NewReplacer(":", "-", "[", "", "]", "").Replace(addr)),
		Args: []string{"connect", network, addr, "--exit"}, User: int64(uid), Group: int64(uid)})
	if err != nil {
		return "", err
	}
	e, err := c.WaitFor(ctx, func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
	if err != nil {
		return "", err
	}
	return e.Reply + e.Error, nil
}
