// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// Pods that have no address of IPv4. It is the last: pods that are made after it have none either.
func (m *mesh) ipv6Only(t *testing.T) {
	m.withoutIPv4(t)
	istiod := net.JoinHostPort(m.bridge[1].String(), "15012")
	relay(t, istiod, net.JoinHostPort(m.bridge[0].String(), "15012"))
	six := pod{namespace: "shop", name: "six", annotations: map[string]string{
		"proxy.istio.io/config": quoted(map[string]any{"discoveryAddress": istiod, "proxyMetadata": map[string]string{"CA_ADDR": istiod}})}}
	m.run(t, six)
	if all := m.Kubectl(t, "-n", "shop", "get", "pod", "six", "-o", "jsonpath={.status.podIPs[*].ip}"); strings.Contains(all, ".") {
		t.Fatalf("rig: the pod has the addresses %s", all)
	}
	m.passes(t, six, 1)
	m.protected(t, six)
}

// withoutIPv4 takes IPv4 from the network's configuration.
func (m *mesh) withoutIPv4(t *testing.T) {
	t.Helper()
	file := filepath.Join(m.C.Lab().Dir(), "cni", "10-lab.conflist")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	var list map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatalf("rig: %v", err)
	}
	ipam := list["plugins"].([]any)[0].(map[string]any)["ipam"].(map[string]any)
	for _, key := range []string{"ranges", "routes"} {
		ipam[key] = ipam[key].([]any)[1:]
	}
	if err := os.WriteFile(file, []byte(quoted(list)), 0o600); err != nil {
		t.Fatalf("rig: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	if err := lab.Poll(ctx, func() (bool, error) { // containerd has read it
		status, err := m.C.Lab().CRI().Status(ctx, &criv1.StatusRequest{Verbose: true})
		config := status.GetInfo()["cniconfig"]
		return strings.Contains(config, "::/0") && !strings.Contains(config, "0.0.0.0/0"), err
	}); err != nil {
		t.Fatalf("rig: a network without IPv4: %v", err)
	}
}

// relay takes what comes to one address to another, until the test's end.
func relay(t *testing.T, from, to string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", from)
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go join(t.Context(), conn, to)
		}
	}()
}

// join ends when one side does.
func join(ctx context.Context, conn net.Conn, to string) {
	defer conn.Close()
	other, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer other.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, other}, {other, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}
