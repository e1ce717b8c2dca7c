// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

const (
	app   = 1000
	proxy = 1337
	root  = 0
)

var proxyListeners = []string{"0.0.0.0:15001", "[::]:15001", "0.0.0.0:15006", "[::]:15006", "127.0.0.1:15053", "[::1]:15053"}

// startLab runs a private runtime with dual-stack pods until the test ends.
func startLab(t *testing.T, runtime lab.Runtime) *lab.Lab {
	t.Helper()
	opts := labtest.Options(t, runtime)
	opts.DualStack = true
	return labtest.Start(t, opts)
}

func forEachRuntime(t *testing.T, test func(t *testing.T, l *lab.Lab)) {
	for _, runtime := range lab.Runtimes() {
		t.Run(string(runtime), func(t *testing.T) { test(t, startLab(t, runtime)) })
	}
}

// meshnetd is a running daemon whose failures are the test's.
type meshnetd struct{ *lab.Daemon }

// runDaemon starts meshnetd for a lab, dual stack as its pods are, with more lines of configuration.
func runDaemon(t *testing.T, l *lab.Lab, config ...string) meshnetd {
	t.Helper()
	program := labtest.Daemon(t, l.Runtime()) // building it may take a minute by itself
	d, err := l.RunDaemon(labtest.Within(t, time.Minute), program, strings.Join(append([]string{"istio.dual_stack = true"}, config...), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Kill()
		if strings.Contains(d.Log(), "DATA RACE") || t.Failed() {
			t.Errorf("log of meshnetd:\n%s", d.Log())
		}
	})
	return meshnetd{d}
}

func (d meshnetd) wait(t *testing.T, match func(lab.Line) bool) lab.Line {
	t.Helper()
	line, err := d.Wait(labtest.Within(t, time.Minute), match)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// event waits for an event about a pod.
func (d meshnetd) event(t *testing.T, event, pod string) lab.Line {
	t.Helper()
	return d.wait(t, func(l lab.Line) bool { return l.Event == event && l.Pod == pod })
}

func (d meshnetd) terminate(t *testing.T) {
	t.Helper()
	if err := d.Terminate(labtest.Within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

// injected is what Istio's injector writes, with more annotations in pairs.
func injected(more ...string) map[string]string {
	annotations := map[string]string{}
	for i := 0; i+1 < len(more); i += 2 {
		annotations[more[i]] = more[i+1]
	}
	return lab.Injected(annotations)
}

func runPod(t *testing.T, l *lab.Lab, name string, annotations map[string]string) *lab.Pod {
	t.Helper()
	pod, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Name: name, Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// runContainer runs a container of the app.
func runContainer(t *testing.T, pod *lab.Pod, name string, args ...string) *lab.Container {
	t.Helper()
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), lab.ContainerSpec{Name: name, Args: args, User: app, Group: app})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// proxyContainer is the stand-in proxy as the injector would make it in a dual-stack mesh.
var proxyContainer = lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy"}, User: proxy, Group: proxy,
	Env: []string{"ISTIO_DUAL_STACK=true"}}

// runProxy runs the stand-in proxy and waits for its listeners.
func runProxy(t *testing.T, pod *lab.Pod) {
	t.Helper()
	c, err := pod.RunContainer(labtest.Within(t, time.Minute), proxyContainer)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range proxyListeners {
		if _, err := c.WaitFor(labtest.Within(t, time.Minute), func(e lab.Event) bool { return e.Event == "listening" && e.Addr == addr }); err != nil {
			t.Fatal(err)
		}
	}
}

// runServer runs a server on a port of both families.
func runServer(t *testing.T, pod *lab.Pod, port, name string) []*lab.Container {
	t.Helper()
	var all []*lab.Container
	for family, addr := range map[string]string{"4": "0.0.0.0:", "6": "[::]:"} {
		c := runContainer(t, pod, name+family, "serve", addr+port, name)
		if _, err := c.WaitEvent(labtest.Within(t, time.Minute), "listening"); err != nil {
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

// saved is what is shown of a pod's rules, as one text.
func saved(t *testing.T, pod *lab.Pod) string {
	t.Helper()
	return strings.Join(labtest.Shown(t, pod.NetNS(), "-nft"), "\n")
}
