// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// testLimit bounds one test; a lab is ready in about a second.
const testLimit = 3 * time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

func forEachRuntime(t *testing.T, test func(t *testing.T, runtime lab.Runtime)) {
	for _, runtime := range lab.Runtimes() {
		t.Run(string(runtime), func(t *testing.T) { test(t, runtime) })
	}
}

func runPod(ctx context.Context, t *testing.T, l *lab.Lab, spec lab.PodSpec) *lab.Pod {
	t.Helper()
	pod, err := l.RunPod(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func runContainer(ctx context.Context, t *testing.T, pod *lab.Pod, spec lab.ContainerSpec) *lab.Container {
	t.Helper()
	container, err := pod.RunContainer(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return container
}

func TestPodsReachEachOther(t *testing.T) {
	forEachRuntime(t, func(t *testing.T, runtime lab.Runtime) {
		ctx := testContext(t)
		opts := labtest.Options(t, runtime)
		opts.DualStack = true
		l := labtest.Start(t, opts)

		server := runPod(ctx, t, l, lab.PodSpec{Name: "server"})
		client := runPod(ctx, t, l, lab.PodSpec{Name: "client", Labels: map[string]string{"app": "client"}})
		if len(client.IPs()) != 2 || !client.IPs()[0].Is4() || !client.IPs()[1].Is6() {
			t.Fatalf("addresses of the client = %v, want an IPv4 and an IPv6 one", client.IPs())
		}
		for i, network := range []string{"tcp4", "tcp6"} {
			wildcard := []string{"0.0.0.0:8080", "[::]:8080"}[i]
			serve := runContainer(ctx, t, server, lab.ContainerSpec{Name: "serve-" + network, Args: []string{"serve", wildcard, "web"}})
			if _, err := serve.WaitEvent(ctx, "listening"); err != nil {
				t.Fatal(err)
			}
			connect := runContainer(ctx, t, client, lab.ContainerSpec{
				Name: "connect-" + network, User: 1000, Group: 1000,
				Args: []string{"connect", network, netip.AddrPortFrom(server.IPs()[i], 8080).String(), "--exit"},
			})
			connected, err := connect.WaitEvent(ctx, "connected")
			if err != nil {
				t.Fatal(err)
			}
			host, _, err := net.SplitHostPort(strings.TrimPrefix(connected.Reply, "web peer="))
			if err != nil || host != client.IPs()[i].String() {
				t.Errorf("reply = %q, want one that names the client %s", connected.Reply, client.IPs()[i])
			}
			if code, err := connect.Wait(ctx); err != nil || code != 0 {
				t.Errorf("exit status = %d, %v, want 0", code, err)
			}
		}
	})
}

func TestFailedConnectIsReported(t *testing.T) {
	ctx := testContext(t)
	l := labtest.Start(t, labtest.Options(t, lab.Runtimes()[0]))
	pod := runPod(ctx, t, l, lab.PodSpec{Name: "lonely"})

	connect := runContainer(ctx, t, pod, lab.ContainerSpec{Name: "connect", Args: []string{"connect", "tcp4", "127.0.0.1:1", "--exit"}})

	if _, err := connect.WaitEvent(ctx, "failed"); err != nil {
		t.Error(err)
	}
	if code, err := connect.Wait(ctx); err != nil || code != 1 {
		t.Errorf("exit status = %d, %v, want 1", code, err)
	}
}

func TestHostNetworkPod(t *testing.T) {
	forEachRuntime(t, func(t *testing.T, runtime lab.Runtime) {
		ctx := testContext(t)
		l := labtest.Start(t, labtest.Options(t, runtime))

		pod := runPod(ctx, t, l, lab.PodSpec{Name: "host", HostNetwork: true})

		if pod.NetNS() != "" || len(pod.IPs()) != 0 {
			t.Errorf("namespace %q, addresses %v, want none", pod.NetNS(), pod.IPs())
		}
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		connect := runContainer(ctx, t, pod, lab.ContainerSpec{Name: "connect", Args: []string{"connect", "tcp4", listener.Addr().String()}})
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("the host\n")); err != nil {
			t.Fatal(err)
		}
		if connected, err := connect.WaitEvent(ctx, "connected"); err != nil || connected.Reply != "the host" {
			t.Errorf("reply = %q, %v, want the host's", connected.Reply, err)
		}
	})
}

func TestRestartKeepsPods(t *testing.T) {
	forEachRuntime(t, func(t *testing.T, runtime lab.Runtime) {
		ctx := testContext(t)
		l := labtest.Start(t, labtest.Options(t, runtime))
		pod := runPod(ctx, t, l, lab.PodSpec{Name: "server"})
		serve := runContainer(ctx, t, pod, lab.ContainerSpec{Name: "serve", Args: []string{"serve", "0.0.0.0:80", "web"}})
		if _, err := serve.WaitEvent(ctx, "listening"); err != nil {
			t.Fatal(err)
		}

		if err := l.Restart(ctx); err != nil {
			t.Fatal(err)
		}

		if ready, err := pod.Ready(ctx); err != nil || !ready {
			t.Errorf("ready after the restart = %v, %v, want true", ready, err)
		}
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(pod.IP(), 80).String(), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := serve.WaitEvent(ctx, "accepted"); err != nil {
			t.Errorf("log of a container after the restart: %v", err)
		}
		if err := pod.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestProxyReportsOriginalDestination(t *testing.T) {
	ctx := testContext(t)
	l := labtest.Start(t, labtest.Options(t, lab.Runtimes()[0]))
	pod := runPod(ctx, t, l, lab.PodSpec{Name: "meshed"})
	proxy := runContainer(ctx, t, pod, lab.ContainerSpec{Name: "proxy", Args: []string{"proxy", "--transparent"}, Capabilities: []string{"NET_ADMIN"}})
	for _, addr := range []string{"0.0.0.0:15001", "[::]:15001", "0.0.0.0:15006", "[::]:15006", "127.0.0.1:15053"} {
		if _, err := proxy.WaitFor(ctx, func(e lab.Event) bool { return e.Event == "listening" && e.Addr == addr }); err != nil {
			t.Fatal(err)
		}
	}
	redirect := exec.CommandContext(ctx, "nsenter", "--net="+pod.NetNS(), "iptables", "-t", "nat", "-A", "OUTPUT",
		"-p", "tcp", "-d", "192.0.2.1", "-j", "REDIRECT", "--to-ports", "15001")
	if out, err := redirect.CombinedOutput(); err != nil {
		t.Fatalf("cannot redirect by iptables: %v: %s", err, out)
	}

	connect := runContainer(ctx, t, pod, lab.ContainerSpec{Name: "connect", Args: []string{"connect", "tcp4", "192.0.2.1:80"}})

	connected, err := connect.WaitEvent(ctx, "connected")
	if err != nil {
		t.Fatal(err)
	}
	if want := "outbound original_dst=192.0.2.1:80"; connected.Reply != want {
		t.Errorf("reply = %q, want %q", connected.Reply, want)
	}
	if accepted, err := proxy.WaitEvent(ctx, "accepted"); err != nil || accepted.OriginalDst != "192.0.2.1:80" {
		t.Errorf("proxy saw %+v, %v, want original_dst 192.0.2.1:80", accepted, err)
	}
}
