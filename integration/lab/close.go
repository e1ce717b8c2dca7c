// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of Close, which must not depend on anybody's context.
const (
	removePodsTimeout = 30 * time.Second
	killTimeout       = time.Minute
)

// Directories that containerd 1.7 and libcni use whatever they are told.
const (
	shimSockets = "/run/containerd/s"
	cniResults  = "/var/lib/cni/results"
)

// sharedDirs are these directories and their parents, the innermost first.
var sharedDirs = []string{shimSockets, filepath.Dir(shimSockets), cniResults, filepath.Dir(cniResults)}

// Close removes the pods, ends the runtime and takes away every process,
// mount, cgroup, interface and file of the lab. It works on what a failed
// Start left too, and may be called again: after a failure it tries again.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	// Pods that the runtime cannot remove are dealt with by the later steps, so
	// this is worth a line but no error.
	if err := l.removePods(); err != nil {
		l.logf("remove pods: %v", err)
	}
	var errs []error
	if l.proc != nil {
		if err := l.proc.stop(context.Background()); err != nil {
			errs = append(errs, err)
		} else {
			l.proc = nil
		}
	}
	_ = l.conn.Close()

	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	errs = append(errs, l.killLeftovers(ctx), l.net.remove(ctx), l.removeCgroups(ctx))
	// Never delete through a mount that could not be taken away.
	if err := unmountBelow(l.dir); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, l.removeFiles())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close lab in %s: %w", l.dir, err)
	}
	l.closed = true
	return nil
}

// removePods removes all sandboxes by CRI, several at once: every one waits
// for namespaces and network plugins.
func (l *Lab) removePods() error {
	if !l.alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removePodsTimeout)
	defer cancel()
	client := criv1.NewRuntimeServiceClient(l.conn)
	pods, err := client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}

	const parallel = 8
	slots := make(chan struct{}, parallel)
	errs := make([]error, len(pods.GetItems()))
	var wg sync.WaitGroup
	for i, pod := range pods.GetItems() {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := removeSandbox(ctx, client, pod.GetId()); err != nil {
				errs[i] = fmt.Errorf("pod %s: %w", pod.GetMetadata().GetName(), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *Lab) removeFiles() error {
	var errs []error
	for _, path := range l.sharedFiles() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, os.RemoveAll(l.dir))
	for _, dir := range l.foreign {
		// Another lab or containerd may use it by now: only empty ones go.
		_ = os.Remove(dir)
	}
	return errors.Join(errs...)
}

// sharedFiles returns the lab's files in the shared directories, as far as
// the runtime had no chance to remove them itself.
func (l *Lab) sharedFiles() []string {
	var files []string
	// A shim that was killed leaves its socket; where it is stands beside the
	// task's other files.
	addresses, _ := filepath.Glob(l.path("state/io.containerd.runtime.v2.task/*/*/address"))
	for _, path := range addresses {
		address, _ := os.ReadFile(path)
		socket, ok := strings.CutPrefix(strings.TrimSpace(string(address)), "unix://")
		if ok && filepath.Dir(socket) == shimSockets {
			files = append(files, socket)
		}
	}
	sandboxes, _ := filepath.Glob(l.path("state/io.containerd.grpc.v1.cri/sandboxes/*"))
	layers, _ := filepath.Glob(l.path("state/*-containers/*")) // CRI-O's, of sandboxes and containers
	for _, path := range append(sandboxes, layers...) {
		cached, _ := filepath.Glob(filepath.Join(cniResults, "*-"+filepath.Base(path)+"-*"))
		files = append(files, cached...)
	}
	return files
}

// missing returns those directories that do not exist.
func missing(dirs []string) []string {
	var absent []string
	for _, dir := range dirs {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			absent = append(absent, dir)
		}
	}
	return absent
}
