// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kube runs a Kubernetes of one node on this machine for tests: etcd, the control plane, and a kubelet on the
// lab's containerd. Nothing of it listens beyond the machine, all its files lie in the lab's directory, and Close takes
// everything away.
package kube

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Node is the name of the only node.
const Node = "node"

// readyTimeout bounds the start of each component, on a machine that others use as well.
const readyTimeout = 2 * time.Minute

// Options say what to run.
type Options struct {
	// Binaries is the directory that integration/kube/build.sh built into.
	Binaries string
	// Plugins is a directory of kubectl's plugins.
	Plugins string
	// Lab is the containerd. NRI's validator should be on.
	Lab lab.Options
	// KubeletArgs are more arguments of the kubelet.
	KubeletArgs []string
	// Log receives progress lines; nil discards them.
	Log io.Writer
}

// Cluster is a running Kubernetes.
type Cluster struct {
	opts  Options
	lab   *lab.Lab
	token string
	etcd  string // its URL
	api   string // the API server's URL

	processes []*process // in the order of their start
	undo      []func() error
	closing   sync.Mutex
}

// Start runs everything and returns when the node is ready. After a failure all is taken away again.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.Log == nil {
		opts.Log = io.Discard
	}
	for _, program := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"} {
		if _, err := os.Stat(filepath.Join(opts.Binaries, program)); err != nil {
			return nil, fmt.Errorf("start a cluster: %s is missing: run integration/kube/build.sh %s: %w", program, opts.Binaries, err)
		}
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		return nil, fmt.Errorf("start a cluster: install etcd-server: %w", err)
	}
	l, err := lab.Start(ctx, opts.Lab)
	if err != nil {
		return nil, fmt.Errorf("start a cluster: %w", err)
	}
	c := &Cluster{opts: opts, lab: l, token: rand.Text()}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster: %w", err), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := os.Mkdir(c.path(""), 0o755); err != nil {
		return err
	}
	// Where the machine's root is a private mount, nothing would be propagated into meshnetd's container.
	if err := c.share(c.NetNSDir()); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{c.startEtcd, c.startAPIServer, c.startControllers, c.startKubelet} {
		begin := time.Now()
		if err := step(ctx); err != nil {
			return err
		}
		fmt.Fprintf(c.opts.Log, "kube: %s ready in %s\n", c.processes[len(c.processes)-1].name, time.Since(begin).Round(time.Millisecond))
	}
	return nil
}

// share makes the directory a mount that others may follow.
func (c *Cluster) share(dir string) error {
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s onto itself: %w", dir, err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_SHARED, ""); err != nil { // the lab unmounts it
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

// Lab returns the containerd.
func (c *Cluster) Lab() *lab.Lab { return c.lab }

// NetNSDir returns a directory in which the runtime has the network namespaces of pods.
func (c *Cluster) NetNSDir() string { return filepath.Join(c.lab.Dir(), "state") }

// path returns a path in the cluster's own directory.
func (c *Cluster) path(name string) string { return filepath.Join(c.lab.Dir(), "kube", name) }

// Kubeconfig is the file of an administrator.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// APIPort is the API server's, of the loopback interface.
func (c *Cluster) APIPort() string { return c.api[strings.LastIndexByte(c.api, ':')+1:] }

// Log returns what a component has written.
func (c *Cluster) Log(name string) (string, error) {
	text, err := os.ReadFile(c.path(name + ".log"))
	return string(text), err
}

// KeepLogs copies the components' logs, and containerd's, into the directory.
func (c *Cluster) KeepLogs(dir string) error {
	logs, err := filepath.Glob(c.path("*.log"))
	errs := []error{err, os.MkdirAll(dir, 0o755)}
	for _, log := range append(logs, c.lab.RuntimeLog()) {
		text, err := os.ReadFile(log)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, filepath.Base(log)), text, 0o644))
	}
	return errors.Join(errs...)
}

// Close ends every process and takes away what they made. It goes on after a failure.
func (c *Cluster) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	var errs []error
	// The kubelet would make pods anew that the lab removes.
	for len(c.processes) > 0 {
		last := c.processes[len(c.processes)-1]
		errs = append(errs, last.stop())
		c.processes = c.processes[:len(c.processes)-1]
	}
	for len(c.undo) > 0 {
		errs = append(errs, c.undo[len(c.undo)-1]())
		c.undo = c.undo[:len(c.undo)-1]
	}
	return errors.Join(append(errs, c.lab.Close())...)
}

// Kubectl runs kubectl and returns what it prints. input is its standard input.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	return c.run(ctx, filepath.Join(c.opts.Binaries, "kubectl"), input, args...)
}

// Helm runs the program, which is a Helm, against the cluster.
func (c *Cluster) Helm(ctx context.Context, program string, args ...string) (string, error) {
	return c.run(ctx, program, "", args...)
}

func (c *Cluster) run(ctx context.Context, program, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + c.opts.Plugins + ":" + os.Getenv("PATH"), "KUBECONFIG=" + c.path("kubeconfig"), "HOME=" + c.path("home")}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(failed.Stderr)))
		}
		return string(out), fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return string(out), nil
}

// Import makes the image in the tar known to the node.
func (c *Cluster) Import(ctx context.Context, tar string) error {
	return c.Ctr(ctx, "images", "import", tar)
}

// Ctr runs containerd's client, in the namespace of the kubelet.
func (c *Cluster) Ctr(ctx context.Context, args ...string) error {
	ctr := filepath.Join(c.lab.Binaries(), string(c.lab.Runtime()), "ctr")
	cmd := exec.CommandContext(ctx, ctr, append([]string{"--address", c.lab.Socket(), "--namespace", "k8s.io"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// freeAddress returns a port of the loopback interface that nobody has at the moment.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
