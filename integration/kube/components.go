// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

func (c *Cluster) startEtcd(ctx context.Context) error {
	clients, err1 := freeAddress()
	peers, err2 := freeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	c.etcd = "http://" + clients
	return c.Launch(ctx, "etcd", "etcd", []string{
		"--data-dir", c.path("etcd"), "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", "http://" + peers, "--initial-advertise-peer-urls", "http://" + peers, "--initial-cluster", "default=http://" + peers,
	}, func(ctx context.Context) error { return get(ctx, c.etcd+"/health") })
}

func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	c.api = "https://" + address
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if err := errors.Join(c.writeKey(), c.writeKubeconfig(),
		os.WriteFile(c.path("tokens.csv"), []byte(c.token+",admin,admin,system:masters\n"), 0o600)); err != nil {
		return fmt.Errorf("write the API server's files: %w", err)
	}
	return c.Launch(ctx, "kube-apiserver", filepath.Join(c.opts.Binaries, "kube-apiserver"), []string{
		"--etcd-servers", c.etcd, "--bind-address", host, "--secure-port", port, "--cert-dir", c.path("certs"),
		"--token-auth-file", c.path("tokens.csv"), "--authorization-mode", "RBAC", "--endpoint-reconciler-type", "none",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.path("key.pem"),
		"--service-account-signing-key-file", c.path("key.pem"), "--service-cluster-ip-range", "10.254.0.0/24",
		"--allow-privileged", "--kubelet-preferred-address-types", "InternalIP",
	}, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "", "get", "--raw", "/readyz")
		return err
	})
}

func (c *Cluster) startControllers(ctx context.Context) error {
	always := func(context.Context) error { return nil }
	for _, component := range []struct {
		name string
		args []string
	}{
		{"kube-controller-manager", []string{"--service-account-private-key-file", c.path("key.pem")}},
		{"kube-scheduler", nil},
	} {
		args := append([]string{"--kubeconfig", c.path("kubeconfig"), "--leader-elect=false", "--secure-port", "0"}, component.args...)
		if err := c.Launch(ctx, component.name, filepath.Join(c.opts.Binaries, component.name), args, always); err != nil {
			return err
		}
	}
	// Pods wait for their namespace's account.
	return c.processes[len(c.processes)-2].wait(ctx, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "", "get", "serviceaccount", "default")
		return err
	})
}

const kubeletConfig = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ADDRESS
port: PORT
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://SOCKET
cgroupDriver: cgroupfs
cgroupRoot: CGROUP
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: "1Mi"}
imageGCHighThresholdPercent: 100
resolvConf: ""
clusterDNS: [10.254.0.10]
podLogsDir: DIR/pods
volumePluginDir: DIR/volume-plugins
staticPodPath: DIR/static
syncFrequency: 5s
nodeStatusUpdateFrequency: 5s
`

func (c *Cluster) startKubelet(ctx context.Context) error {
	if err := c.remember(); err != nil {
		return err
	}
	address, err := c.bridgeAddress()
	if err != nil {
		return err
	}
	free, err := freeAddress()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(free)
	if err != nil {
		return err
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	config := strings.NewReplacer("ADDRESS", address, "PORT", port, "SOCKET", c.lab.Socket(), "DIR", c.path(""),
		"CGROUP", c.cgroup()).Replace(kubeletConfig)
	if err := errors.Join(os.Mkdir(c.path("static"), 0o755), os.WriteFile(c.path("kubelet.yaml"), []byte(config), 0o600)); err != nil {
		return fmt.Errorf("write the kubelet's configuration: %w", err)
	}
	return c.launchKubelet(ctx, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+Node, "--timeout=1s")
		return err
	})
}

func (c *Cluster) launchKubelet(ctx context.Context, ready func(context.Context) error) error {
	address, err := c.bridgeAddress()
	if err != nil {
		return err
	}
	return c.Launch(ctx, "kubelet", filepath.Join(c.opts.Binaries, "kubelet"), append([]string{
		"--config", c.path("kubelet.yaml"), "--kubeconfig", c.path("kubeconfig"), "--root-dir", c.path("kubelet"),
		"--cert-dir", c.path("kubelet-certs"), "--hostname-override", Node, "--node-ip", address,
	}, c.opts.KubeletArgs...), ready)
}

// bridgeAddress is where the API server reaches the kubelet: an address that is the node's own and leads nowhere else.
// The kubelet takes none of the loopback interface.
func (c *Cluster) bridgeAddress() (string, error) {
	all, err := c.BridgeAddresses()
	if err != nil {
		return "", err
	}
	for _, addr := range all {
		if addr.Is4() {
			return addr.String(), nil
		}
	}
	return "", fmt.Errorf("bridge %s has no IPv4 address", c.lab.Bridge())
}

// BridgeAddresses are the node's addresses that pods reach it by.
func (c *Cluster) BridgeAddresses() ([]netip.Addr, error) {
	bridge, err := net.InterfaceByName(c.lab.Bridge())
	if err != nil {
		return nil, fmt.Errorf("find the lab's bridge: %w", err)
	}
	addresses, err := bridge.Addrs()
	if err != nil {
		return nil, fmt.Errorf("find the lab's bridge: %w", err)
	}
	var all []netip.Addr
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address.String())
		if err != nil {
			return nil, fmt.Errorf("find the lab's bridge: %w", err)
		}
		if addr := prefix.Addr(); !addr.IsLinkLocalUnicast() {
			all = append(all, addr)
		}
	}
	return all, nil
}

// writeKey makes the key by which accounts' tokens are signed.
func (c *Cluster) writeKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return os.WriteFile(c.path("key.pem"), pem.EncodeToMemory(block), 0o600)
}

// writeKubeconfig makes one for everybody: an administrator's, who does not ask who answers on his own machine.
func (c *Cluster) writeKubeconfig() error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %q}}]
`, c.api, c.token)
	return os.WriteFile(c.path("kubeconfig"), []byte(text), 0o600)
}
