// SPDX-License-Identifier: Apache-2.0

// Package lab runs a private containerd or CRI-O with its own network, images and NRI
// socket, for tests, the demo and the benchmark. Everything it creates lies
// in one temporary directory or carries the lab's random id, and Close takes
// all of it away again; the machine's own runtime is never touched.
//
// Three things are beyond configuration. libcni
// caches its results in /var/lib/cni, and containerd 1.7 places its shims'
// sockets in /run/containerd/s: both use names that cannot collide, and are
// cleaned up. skopeo, which CRI-O's images come by, keeps digests in
// /var/lib/containers/cache.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is the reference of the only image: the stand-in program as its
// entrypoint. It is the sandbox image too.
const Image = "localhost/meshnetd/standin:1"

// readyTimeout bounds one start of the runtime and one import.
const readyTimeout = 60 * time.Second

// Lab is one running container runtime.
type Lab struct {
	opts Options
	id   string // random, part of every name outside dir
	dir  string
	net  network
	runc string

	command []string // that runs the runtime

	conn *grpc.ClientConn

	foreign []string // shared directories that did not exist before this lab

	mu     sync.Mutex // guards the fields below and serializes start, stop and Close
	proc   *process
	closed bool
}

// Start runs the runtime, waits until it can run pods and imports the image.
// On failure everything is taken away again. The lab outlives ctx: it runs
// until Close.
func Start(ctx context.Context, opts Options) (*Lab, error) {
	opts = opts.withDefaults()
	if err := opts.Check(); err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	// The shims are recognised by the path the kernel has for their program.
	binaries, err := filepath.EvalSymlinks(opts.Binaries)
	if err == nil {
		opts.Binaries, err = filepath.Abs(binaries)
	}
	if err != nil {
		return nil, fmt.Errorf("start lab: resolve Binaries: %w", err)
	}

	l, err := newLab(opts)
	if err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	if err := l.start(ctx); err != nil {
		tail := l.logTail()
		if closeErr := l.Close(); closeErr != nil {
			l.logf("clean up after failed start: %v", closeErr)
		}
		return nil, fmt.Errorf("start lab: %w%s", err, tail)
	}
	return l, nil
}

func newLab(opts Options) (*Lab, error) {
	runc, err := findRunc()
	if err != nil {
		return nil, err
	}
	var raw [3]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("choose lab id: %w", err)
	}
	id := hex.EncodeToString(raw[:])
	dir := filepath.Join(os.TempDir(), "mlab-"+id)
	if len(dir) > maxDirLen {
		return nil, fmt.Errorf("%s is too long for unix sockets in it: set TMPDIR to a shorter path", dir)
	}
	l := &Lab{opts: opts, id: id, dir: dir, runc: runc, foreign: missing(sharedDirs)}
	// It connects when the first call is made.
	l.conn, err = grpc.NewClient("unix://"+l.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the runtime: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create lab directory: %w", err)
	}
	return l, nil
}

// maxDirLen leaves room for the shim sockets: containerd wants their
// directory, DIR/s, to be no longer than 42 bytes.
const maxDirLen = 40

func (l *Lab) start(ctx context.Context) error {
	begin := time.Now()
	network, err := createNetwork(ctx, l.id, l.opts.DualStack)
	// Kept even after a failure: the bridge may exist by then.
	l.net = network
	if err != nil {
		return err
	}
	if err := l.writeConfig(); err != nil {
		return err
	}
	if err := l.launch(ctx); err != nil {
		return err
	}
	if err := l.importImage(ctx); err != nil {
		return err
	}
	l.logf("%s ready in %s at %s", l.opts.Runtime, time.Since(begin).Round(time.Millisecond), l.dir)
	return nil
}

// Restart stops the runtime and starts it again with the same state. Pods
// keep running meanwhile, as they do on a node.
func (l *Lab) Restart(ctx context.Context) error {
	if err := l.Stop(ctx); err != nil {
		return err
	}
	return l.Resume(ctx)
}

// Stop ends the runtime and leaves the pods running. Resume starts it again.
func (l *Lab) Stop(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("stop the runtime: the lab is closed")
	}
	if l.proc == nil {
		return nil
	}
	if err := l.proc.stop(ctx); err != nil {
		return fmt.Errorf("stop the runtime: %w", err)
	}
	l.proc = nil
	return nil
}

// Alive reports whether the runtime runs, as far as it did not end in this moment.
func (l *Lab) Alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alive()
}

func (l *Lab) alive() bool {
	if l.proc == nil {
		return false
	}
	select {
	case <-l.proc.exited:
		return false
	default:
		return true
	}
}

// Kill ends the runtime as an out-of-memory killer would; Stop and Resume go on from there.
func (l *Lab) Kill() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proc == nil {
		return fmt.Errorf("kill the runtime: it does not run")
	}
	return l.proc.cmd.Process.Kill()
}

// Resume starts the runtime after Stop.
func (l *Lab) Resume(ctx context.Context) error {
	begin := time.Now()
	if err := l.launch(ctx); err != nil {
		return fmt.Errorf("restart the runtime: %w%s", err, l.logTail())
	}
	l.logf("%s started again in %s", l.opts.Runtime, time.Since(begin).Round(time.Millisecond))
	return nil
}

// launch starts the runtime, connects to it and waits until it is ready.
func (l *Lab) launch(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("the lab is closed")
	}
	if l.proc != nil {
		return fmt.Errorf("the runtime runs already")
	}
	proc, err := startProcess(l.command, l.RuntimeLog(), l.path("tmp"), "CONTAINERS_REGISTRIES_CONF="+l.path("registries.conf"))
	if err != nil {
		return err
	}
	l.proc = proc
	return l.waitReady(ctx, proc)
}

func (l *Lab) waitReady(ctx context.Context, proc *process) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := criv1.NewRuntimeServiceClient(l.conn)
	slow := time.After(readyTimeout / 4)
	err := Poll(ctx, func() (bool, error) {
		select {
		case <-proc.exited:
			return false, fmt.Errorf("the runtime ended by itself: %w", proc.err)
		case <-slow: // it may wait for what an earlier run of it left frozen
			if err := l.thaw(); err != nil {
				return false, err
			}
		default:
		}
		// A connection that failed while the runtime was down must not keep
		// the client in its back-off.
		l.conn.ResetConnectBackoff()
		status, err := client.Status(ctx, &criv1.StatusRequest{})
		if err != nil {
			return false, nil
		}
		ready := 0
		for _, c := range status.GetStatus().GetConditions() {
			if c.GetStatus() && (c.GetType() == criv1.RuntimeReady || c.GetType() == criv1.NetworkReady) {
				ready++
			}
		}
		return ready == 2, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the runtime: %w", err)
	}
	return nil
}

// Runtime returns which runtime the lab runs.
func (l *Lab) Runtime() Runtime { return l.opts.Runtime }

// Binaries returns the directory of the runtimes.
func (l *Lab) Binaries() string { return l.opts.Binaries }

// Dir returns the private directory.
func (l *Lab) Dir() string { return l.dir }

// Socket returns the path of the runtime's CRI socket.
func (l *Lab) Socket() string { return l.path("c.sock") }

// NRISocket returns the path of the socket NRI plugins connect to.
func (l *Lab) NRISocket() string { return l.path("nri.sock") }

// NRIPluginDir returns the directory of pre-installed NRI plugins. It is
// empty; the runtime reads it when it starts.
func (l *Lab) NRIPluginDir() string { return l.path("nri-plugins") }

// NRIConfigDir returns the directory of the pre-installed plugins'
// configuration files.
func (l *Lab) NRIConfigDir() string { return l.path("nri-conf") }

// RuntimeLog returns the path of the runtime's log. Restarts append to it.
func (l *Lab) RuntimeLog() string { return l.path("runtime.log") }

// Bridge returns the name of the bridge the pods are attached to.
func (l *Lab) Bridge() string { return l.net.bridge }

// CRI returns a client for what the lab itself has no method for.
func (l *Lab) CRI() criv1.RuntimeServiceClient { return criv1.NewRuntimeServiceClient(l.conn) }

func (l *Lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *Lab) logf(format string, args ...any) {
	fmt.Fprintf(l.opts.Log, "lab: "+format+"\n", args...)
}

// Poll calls done until it is true or fails, or ctx ends.
func Poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
