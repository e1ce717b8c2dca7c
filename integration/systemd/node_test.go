// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// node is a machine with a real containerd, which systemd runs. It is asked as a kubelet does.
type node struct {
	*machine
	cri criv1.RuntimeServiceClient
}

// What a machine of namespaces may not have is switched off: AppArmor, and scores below the test's own for the kernel's
// choice of what to kill.
const containerdConfig = `version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + lab.Image + `"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  disable_hugetlb_controller = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/runtimes/cni"]
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    runtime_path = "/opt/runtimes/containerd-2.4/containerd-shim-runc-v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "/usr/local/sbin/runc"
`

// runc without shares of the processor: a machine whose own machine has cgroups of the old kind has no controllers.
const runc = `#!/bin/sh
for argument; do
	[ "$before" != --bundle ] || sed -i 's/"cpu":{[^}]*}/"cpu":{}/' "$argument/config.json"
	before=$argument
done
exec /usr/sbin/runc "$@"
`

const containerdUnit = `[Unit]
Description=containerd
[Service]
Type=notify
ExecStart=/opt/runtimes/containerd-2.4/containerd
Restart=always
RestartSec=1
KillMode=process
Delegate=yes
OOMScoreAdjust=0
[Install]
WantedBy=multi-user.target
`

const network = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods0",
	"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`

// bootNode boots a machine with a containerd that has the image of the lab.
func bootNode(t *testing.T, tree string) *node {
	t.Helper()
	runtimes, err := lab.FindBinaries()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(runtimes, "containerd-2.4", "containerd")); err != nil {
		unable(t, fmt.Errorf("containerd is missing, make runtimes builds it: %w", err))
	}
	m := boot(t, tree, runtimes+":/opt/runtimes")
	m.write(t, "/etc/containerd/config.toml", containerdConfig)
	m.write(t, "/etc/cni/net.d/10-pods.conflist", network)
	m.write(t, "/etc/systemd/system/containerd.service", containerdUnit)
	m.write(t, "/usr/local/sbin/runc", runc)
	if err := os.Chmod(filepath.Join(m.root, "/usr/local/sbin/runc"), 0o755); err != nil {
		t.Fatal(err)
	}
	standin, err := lab.BuildStandin(within(t, 2*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(standin)
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.WriteImage(filepath.Join(m.shared, "image.tar"), program); err != nil {
		t.Fatal(err)
	}
	m.must(t, "systemctl", "daemon-reload")
	m.must(t, "systemctl", "enable", "--now", "containerd")
	m.must(t, "/opt/runtimes/containerd-2.4/ctr", "--namespace", "k8s.io", "images", "import", "/shared/image.tar")

	// Its socket is reached by the way its first process sees files.
	conn, err := grpc.NewClient(fmt.Sprintf("unix:///proc/%d/root/run/containerd/containerd.sock", m.leader),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n := &node{m, criv1.NewRuntimeServiceClient(conn)}
	images := criv1.NewImageServiceClient(conn)
	if err := poll(within(t, 30*time.Second), func() bool {
		status, err := images.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: lab.Image}})
		return err == nil && status.GetImage() != nil
	}); err != nil {
		t.Fatalf("the image is not known: %v\n%s", err, n.must(t, "journalctl", "-u", "containerd", "-n", "30", "--no-pager"))
	}
	return n
}

// pod is a sandbox on a node.
type pod struct {
	*node
	name, id, netns string
	pid             int // of its first process, as the machine sees it
	config          *criv1.PodSandboxConfig
}

// sandbox runs a sandbox of the mesh, once, or what a kubelet would see instead. Where the runtime can, it makes its
// containers wait for meshnetd.
func (n *node) sandbox(ctx context.Context, namespace, name string) (*pod, error) {
	config := &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: "uid-" + name},
		Annotations:  lab.Injected(map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`}),
		Labels:       map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": "uid-" + name},
		LogDirectory: "/var/log/pods/" + name,
		Linux:        &criv1.LinuxPodSandboxConfig{SecurityContext: &criv1.LinuxSandboxSecurityContext{}},
	}
	made, err := n.cri.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("sandbox of %s: %w", name, err)
	}
	p := &pod{node: n, name: name, id: made.GetPodSandboxId(), config: config}
	status, err := n.cri.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("sandbox of %s: %w", name, err)
	}
	var info struct {
		PID         int `json:"pid"`
		RuntimeSpec struct {
			Linux struct{ Namespaces []struct{ Type, Path string } }
		}
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil {
		return nil, fmt.Errorf("sandbox of %s: %w", name, err)
	}
	p.pid = info.PID
	for _, ns := range info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" {
			p.netns = ns.Path
		}
	}
	return p, nil
}

// container creates and starts a container, once.
func (p *pod) container(ctx context.Context, name string) error {
	made, err := p.cri.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &criv1.ContainerConfig{
			Metadata: &criv1.ContainerMetadata{Name: name}, Image: &criv1.ImageSpec{Image: lab.Image}, LogPath: name + ".log",
			Labels: map[string]string{"io.kubernetes.container.name": name},
			Linux:  &criv1.LinuxContainerConfig{SecurityContext: &criv1.LinuxContainerSecurityContext{}},
		}})
	if err != nil {
		return fmt.Errorf("container %s of %s: %w", name, p.name, err)
	}
	if _, err := p.cri.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		return fmt.Errorf("container %s of %s: %w", name, p.name, err)
	}
	return nil
}

// bringUp runs a pod as a kubelet does, which tries again for as long as it takes, or until ctx ends.
func (n *node) bringUp(ctx context.Context, namespace, name string) (p *pod, err error) {
	if poll(ctx, func() bool { p, err = n.sandbox(ctx, namespace, name); return err == nil }) != nil {
		return nil, err
	}
	if poll(ctx, func() bool { err = p.container(ctx, "app"); return err == nil }) != nil {
		return nil, err
	}
	return p, nil
}

func (n *node) start(t *testing.T, namespace, name string) *pod {
	t.Helper()
	p, err := n.bringUp(within(t, time.Minute), namespace, name)
	if err != nil {
		t.Fatalf("tried for a minute, and the last time: %v", err)
	}
	return p
}

// rules returns what iptables-save prints in the pod, without the counters.
func (p *pod) rules(t *testing.T) string {
	t.Helper()
	text := p.must(t, "nsenter", "--net="+p.netns, "iptables-nft-save")
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
