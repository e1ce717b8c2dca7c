// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// App and Proxy are the users and groups of the pods' programs.
const App, Proxy = 1000, 1337

// ProxyListeners are what the stand-in proxy listens on.
var ProxyListeners = []string{"0.0.0.0:15001", "[::]:15001", "0.0.0.0:15006", "[::]:15006", "127.0.0.1:15053", "[::1]:15053"}

// Injected is what Istio's injector writes, with more annotations in pairs.
func Injected(more ...string) map[string]string {
	annotations := map[string]string{}
	for i := 0; i+1 < len(more); i += 2 {
		annotations[more[i]] = more[i+1]
	}
	return lab.Injected(annotations)
}

// RunPod runs a pod, with annotations, until the lab ends.
func RunPod(t *testing.T, l *lab.Lab, name string, annotations map[string]string) *lab.Pod {
	t.Helper()
	pod, err := l.RunPod(Within(t, time.Minute), lab.PodSpec{Name: name, Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// RunContainer runs a container of the app.
func RunContainer(t *testing.T, pod *lab.Pod, name string, args ...string) *lab.Container {
	t.Helper()
	c, err := pod.RunContainer(Within(t, time.Minute), lab.ContainerSpec{Name: name, Args: args, User: App, Group: App})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ProxyContainer is the stand-in proxy as the injector would make it in a dual-stack mesh.
var ProxyContainer = lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy"}, User: Proxy, Group: Proxy,
	Env: []string{"ISTIO_DUAL_STACK=true"}}

// RunProxy runs the stand-in proxy and waits for its listeners.
func RunProxy(t *testing.T, pod *lab.Pod) {
	t.Helper()
	c, err := pod.RunContainer(Within(t, time.Minute), ProxyContainer)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range ProxyListeners {
		if _, err := c.WaitFor(Within(t, time.Minute), func(e lab.Event) bool { return e.Event == "listening" && e.Addr == addr }); err != nil {
			t.Fatal(err)
		}
	}
}

// RunServer runs a server on a port of both families.
func RunServer(t *testing.T, pod *lab.Pod, port, name string) []*lab.Container {
	t.Helper()
	var all []*lab.Container
	for family, addr := range map[string]string{"4": "0.0.0.0:", "6": "[::]:"} {
		c := RunContainer(t, pod, name+family, "serve", addr+port, name)
		if _, err := c.WaitEvent(Within(t, time.Minute), "listening"); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// FirstAct runs a container whose first act is connect(), and returns what it reached.
func FirstAct(ctx context.Context, pod *lab.Pod, uid int, network, addr string) (string, error) {
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

// Saved is what is shown of a pod's rules, as one text.
func Saved(t *testing.T, pod *lab.Pod) string {
	t.Helper()
	return strings.Join(Shown(t, pod.NetNS(), "-nft"), "\n")
}

// Address is a port of the pod, by its first address (IPv4) or its second.
func Address(pod *lab.Pod, i int, port uint16) string {
	return netip.AddrPortFrom(pod.IPs()[i], port).String()
}

// InNetNS runs a program in a network namespace and returns what it printed.
func InNetNS(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + path}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// HostRules reads the host's own tables, both kinds and families, without counters.
func HostRules(t *testing.T) string {
	t.Helper()
	var all []string
	for _, kind := range []string{"-nft", "-legacy"} {
		all = append(all, Shown(t, "/proc/thread-self/ns/net", kind)...)
	}
	out, err := exec.Command("sh", "-ec", "ip rule; ip -6 rule; ip -o addr show dev lo").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(append(all, string(out)), "\n")
}
