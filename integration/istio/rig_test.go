// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package istio runs a real Istio on the cluster of package kube: istiod as a process of this machine, pilot-agent and
// Envoy in the pods, meshnetd by its chart. What a proxy did is read from its access log.
package istio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

const (
	appImage = "localhost/meshnetd/app:1"
	// clusterDNS is the server that the kubelet writes into pods.
	clusterDNS = "10.254.0.10"
	// webAddress is the Service in front of the pod that is asked most. The API server gives nobody one of the first sixteen unasked.
	webAddress = "10.254.0.11"
	// outsidePort is where a server answers on the node that is none of the mesh.
	outsidePort = "18080"
)

// mesh is a cluster with an Istio, and with meshnetd.
type mesh struct {
	*kube.Steps
	programs string // that integration/istio/build.sh built
	bridge   []netip.Addr
	injector string      // what it gives pods, as injection says it
	running  bool        // istiod
	host     *lab.Daemon // a meshnetd that is a process of the node, while it is one
}

// start runs all of it, as docs/istio.md says.
func start(t *testing.T) *mesh {
	t.Helper()
	return run(t, part{"meshnetd, Istio", (*mesh).setUp}, part{"Istio", (*mesh).istiod}, part{"rig, Istio", (*mesh).namespaces})
}

// part is one of what has to run. A failure says which it was.
type part struct {
	name string
	run  func(*mesh, context.Context, *testing.T) error
}

// run runs a cluster with the rig's own parts, and these. What fails leaves the logs of all.
func run(t *testing.T, parts ...part) *mesh {
	t.Helper()
	programs := os.Getenv("MESHNETD_ISTIO")
	if programs == "" {
		t.Skip("runs by make test-istio")
	}
	c := kube.Run(t)
	t.Cleanup(func() {
		if dir := os.Getenv("MESHNETD_ISTIO_LOGS"); t.Failed() && dir != "" {
			dir = filepath.Join(dir, t.Name())
			t.Logf("all logs are in %s (%v)", dir, c.KeepLogs(dir))
		}
	})
	m := &mesh{Steps: kube.NewSteps(t, c), programs: programs}
	if err := c.Import(t.Context(), os.Getenv("MESHNETD_IMAGE")); err != nil {
		t.Fatalf("meshnetd: %v", err)
	}
	for _, part := range append([]part{{"rig", (*mesh).network}, {"rig", (*mesh).images}}, parts...) {
		if err := part.run(m, t.Context(), t); err != nil {
			t.Fatalf("%s: %v", part.name, err)
		}
	}
	return m
}

func (m *mesh) program(name string) string { return filepath.Join(m.programs, "istio", name) }

// network has a name server at the address that pods have for it, and a server outside the mesh.
func (m *mesh) network(ctx context.Context, t *testing.T) (err error) {
	if m.bridge, err = m.C.BridgeAddresses(); err != nil {
		return err
	}
	if len(m.bridge) != 2 || !m.bridge[0].Is4() {
		return fmt.Errorf("the bridge has the addresses %v", m.bridge)
	}
	if out, err := exec.CommandContext(ctx, "ip", "addr", "add", clusterDNS+"/32", "dev", m.C.Lab().Bridge()).CombinedOutput(); err != nil {
		return fmt.Errorf("give the name server its address: %w: %s", err, out) // it goes with the lab's bridge
	}
	standin, err := lab.BuildStandin(ctx)
	if err != nil {
		return err
	}
	if err := m.C.Launch(ctx, "names", standin, []string{"names", clusterDNS + ":53", "--name", "web.shop.svc.cluster.local=" + webAddress},
		m.logged("names", "listening")); err != nil {
		return err
	}
	app, err := buildApp(ctx)
	if err != nil {
		return err
	}
	args := []string{"web", "outside"}
	for _, addr := range m.bridge {
		args = append(args, net.JoinHostPort(addr.String(), outsidePort), net.JoinHostPort(addr.String(), "18081"))
	}
	return m.C.Launch(ctx, "outside", app, args, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(m.bridge[1].String(), "18081"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// logged is so when a component has written the text.
func (m *mesh) logged(name, text string) func(context.Context) error {
	return func(context.Context) error {
		log, err := m.C.Log(name)
		if err == nil && !strings.Contains(log, text) {
			err = fmt.Errorf("no %q in its log", text)
		}
		return err
	}
}

func buildApp(ctx context.Context) (string, error) {
	return lab.Build(ctx, "istio-app", "./integration/istio/app")
}

// images are the proxy's and the tenants'.
func (m *mesh) images(ctx context.Context, t *testing.T) error {
	app, err := buildApp(ctx)
	if err != nil {
		return err
	}
	const ids = ":x:1337:1337::/:/none\n"
	proxy := map[string]string{"/usr/local/bin/pilot-agent": m.program("pilot-agent"), "/usr/local/bin/envoy": filepath.Join(m.programs, "envoy", "envoy"),
		"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": m.program("envoy_bootstrap_tmpl.json")}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} { // for istio-init
		proxy["/usr/sbin/"+name] = "/usr/sbin/xtables-nft-multi"
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return err
	}
	for _, path := range extensions {
		proxy[path] = path
	}
	for _, image := range []kube.Image{
		{Tag: appImage, Entrypoint: []string{"/app"}, Programs: map[string]string{"/app": app}, Directories: []string{"/tmp"}},
		{Tag: "localhost/istio/proxyv2:1", Entrypoint: []string{"/usr/local/bin/pilot-agent"},
			Programs:    proxy,
			Files:       map[string]string{"/etc/passwd": "root:x:0:0::/:/none\nistio-proxy" + ids, "/etc/group": "root:x:0:\nistio-proxy:x:1337:\n"},
			Directories: []string{"/tmp", "/etc/istio/proxy"}},
	} {
		file := filepath.Join(t.TempDir(), "image.tar")
		if err := image.Write(file); err != nil {
			return err
		}
		if err := m.C.Import(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

// istioctl runs it against the cluster.
func (m *mesh) istioctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, m.program("istioctl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.C.Kubeconfig(), "HOME="+filepath.Join(m.C.Lab().Dir(), "tmp"))
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("istioctl %s: %w: %s", strings.Join(args, " "), err, failed.String())
	}
	return string(out), err
}

// rigged is rig.yaml for this machine.
func (m *mesh) rigged(t *testing.T) (string, error) {
	text, err := os.ReadFile("rig.yaml")
	if err != nil {
		return "", err
	}
	file := filepath.Join(t.TempDir(), "rig.yaml")
	made := strings.NewReplacer("BRIDGE", m.bridge[0].String(), "LAB", m.C.Lab().Dir(), "PLUGINS", filepath.Join(m.C.Lab().Binaries(), "cni"),
		"APIPORT", m.C.APIPort()).Replace(string(text))
	return file, os.WriteFile(file, []byte(made), 0o600)
}

// install is istioctl's, but for what would run as pods: istiod runs here. Istio's own DaemonSet stays, with its files in the
// lab's directory.
func (m *mesh) install(ctx context.Context, t *testing.T, args ...string) error {
	rig, err := m.rigged(t)
	if err != nil {
		return err
	}
	made, err := m.istioctl(ctx, slices.Concat([]string{"manifest", "generate", "-f", rig}, args)...)
	if err != nil {
		return err
	}
	made = strings.ReplaceAll(made, "/var/run/istio-cni", m.agentDir())
	kept, err := without(made, "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget")
	if err != nil {
		return err
	}
	// Objects come before the kinds that they are of.
	return m.poll(ctx, kept, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

// without leaves objects of some kinds out.
func without(manifests string, kinds ...string) (string, error) {
	var kept bytes.Buffer
	encoder := yaml.NewEncoder(&kept)
	for decoder := yaml.NewDecoder(strings.NewReader(manifests)); ; {
		var object map[string]any
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return kept.String(), encoder.Close()
		}
		if err != nil {
			return "", err
		}
		if kind, _ := object["kind"].(string); kind != "" && !slices.Contains(kinds, kind) {
			if err := encoder.Encode(object); err != nil {
				return "", err
			}
		}
	}
}

// istiod runs on the node, where proxies reach it by the bridge, and the API server by the loopback interface.
func (m *mesh) istiod(ctx context.Context, t *testing.T) error {
	bridge := m.bridge[0].String()
	environment := []string{"POD_NAMESPACE=istio-system", "POD_NAME=istiod", "SERVICE_ACCOUNT=istiod", "REVISION=default", "CLUSTER_ID=Kubernetes",
		"PILOT_CERT_PROVIDER=istiod", "ISTIOD_CUSTOM_HOST=" + bridge + "," + m.bridge[1].String() + ",127.0.0.1,localhost", "ENABLE_LEADER_ELECTION=false",
		"INJECTION_WEBHOOK_CONFIG_NAME=istio-sidecar-injector", "VALIDATION_WEBHOOK_CONFIG_NAME=istio-validator-istio-system",
		"ISTIO_DUAL_STACK=true", "PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false"}
	args := slices.Concat(environment, []string{m.program("pilot-discovery"), "discovery", "--kubeconfig", m.C.Kubeconfig(),
		"--secureGRPCAddr", bridge + ":15012", "--httpsAddr", "127.0.0.1:15017", "--grpcAddr", "127.0.0.1:15010", "--httpAddr", "127.0.0.1:15014",
		"--monitoringAddr", "127.0.0.1:15013", "--ctrlz_port", "0", "--domain", "cluster.local"})
	return m.C.Launch(ctx, "istiod", "env", args, func(ctx context.Context) error {
		bundle, err := m.C.Kubectl(ctx, "", "get", "mutatingwebhookconfigurations", "-o", "jsonpath={.items[*].webhooks[*].clientConfig.caBundle}")
		if err == nil && bundle == "" {
			err = errors.New("it has given its webhooks no certificate")
		}
		return err
	})
}

func (m *mesh) setUp(ctx context.Context, t *testing.T) error {
	_, err := m.C.Kubectl(ctx, "", "create", "namespace", "istio-system")
	if err == nil {
		m.guide(t, "Set it up")
	}
	return err
}

// namespaces are the mesh's; one for pods with the capabilities that TPROXY and istio-init need; and one outside.
func (m *mesh) namespaces(_ context.Context, t *testing.T) error {
	m.guide(t, "A namespace")
	m.Kubectl(t, "create", "namespace", "transparent")
	m.Kubectl(t, "label", "namespace", "transparent", "istio-injection=enabled", "pod-security.kubernetes.io/enforce=privileged")
	m.Kubectl(t, "create", "namespace", "elsewhere")
	m.injects(t, m.injector)
	m.running = true
	return nil
}
