// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"

	"github.com/meshnetd/meshnetd/rules"
)

// The stub finds hooks by their signature and takes one that is off by a type for none at all.
var (
	_ stub.ConfigureInterface       = (*hooks)(nil)
	_ stub.SynchronizeInterface     = (*hooks)(nil)
	_ stub.RunPodInterface          = (*hooks)(nil)
	_ stub.CreateContainerInterface = (*hooks)(nil)
	_ stub.RemovePodInterface       = (*hooks)(nil)
)

var (
	errStopping = errors.New("meshnetd is being stopped on this node: the pod is tried again once it is back")
	errAborted  = errors.New("the registration is over")
)

// hooks is what the runtime calls during one session.
type hooks struct {
	pods    Enforcer
	log     *slog.Logger
	timeout func() time.Duration // the runtime's request timeout, once it is known
	synced  func(Runtime)

	configuring sync.Mutex // held during Configure
	configured  bool       // no Configure is let through any more; guarded by configuring

	mu       sync.Mutex
	runtime  Runtime
	aborted  bool
	fatal    error           // why this runtime cannot be used
	stopping bool            // no new work
	busy     sync.WaitGroup  // work that the runtime waits for
	unproven map[string]bool // sandboxes that were not protected as far as we know, by id; RefuseLate only
}

// Configure learns what the runtime is and asks for its events.
func (h *hooks) Configure(_ context.Context, _, name, version string) (api.EventMask, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.aborted {
		return 0, errAborted
	}
	h.runtime, h.fatal = identify(name, version)
	if h.fatal != nil {
		return 0, h.fatal
	}
	return h.runtime.events(), nil
}

// Synchronize takes over the pods that exist already. It fails only where nothing can be done at all: a
// single pod must not keep the daemon from the others.
func (h *hooks) Synchronize(ctx context.Context, sandboxes []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	if !h.enter() {
		return nil, errStopping
	}
	defer h.busy.Done()
	ctx, cancel := budget(ctx, h.timeout())
	defer cancel()
	var pods []rules.Pod
	for _, sandbox := range sandboxes {
		// A stopped sandbox has neither process nor namespace; there is nothing to look at any more.
		if pod := podOf(sandbox); pod.NetNS != "" || (sandbox.GetPid() != 0 && !pod.HostNetwork) {
			pods = append(pods, pod)
		}
	}
	h.distrust(pods, containers)
	_ = h.guard("the pods of this node", func() error { h.pods.Synchronize(ctx, pods); return nil })
	h.synced(h.known())
	return nil, nil
}

// distrust marks the sandboxes without a container: an earlier session may have let them through
// unprotected, and what it knew went with it.
func (h *hooks) distrust(pods []rules.Pod, containers []*api.Container) {
	started := map[string]bool{}
	for _, c := range containers {
		started[c.GetPodSandboxId()] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, pod := range pods {
		if h.runtime.RefuseLate && !started[pod.SandboxID] {
			h.unproven[pod.SandboxID] = true
		}
	}
}

// RunPodSandbox protects a pod before its first container is created, or refuses it.
func (h *hooks) RunPodSandbox(ctx context.Context, sandbox *api.PodSandbox) error {
	pod := podOf(sandbox)
	err := h.enforce(ctx, pod)
	if err != nil && h.known().RefuseLate {
		h.mu.Lock()
		h.unproven[pod.SandboxID] = true
		h.mu.Unlock()
		return nil
	}
	return err
}

// CreateContainer refuses the containers of sandboxes that were let through unprotected, until they can be
// protected. It is called with RefuseLate only.
func (h *hooks) CreateContainer(ctx context.Context, sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	h.mu.Lock()
	unproven := h.unproven[sandbox.GetId()]
	h.mu.Unlock()
	if !unproven {
		return nil, nil, nil
	}
	if err := h.enforce(ctx, podOf(sandbox)); err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	delete(h.unproven, sandbox.GetId())
	h.mu.Unlock()
	return nil, nil, nil
}

// RemovePodSandbox forgets a refused sandbox. It is called with RefuseLate only.
func (h *hooks) RemovePodSandbox(_ context.Context, sandbox *api.PodSandbox) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.unproven, sandbox.GetId())
	return nil
}

// enforce answers before the runtime's own deadline: an error in time refuses the pod, an answer that
// comes late lets it run without rules.
func (h *hooks) enforce(ctx context.Context, pod rules.Pod) error {
	if !h.enter() {
		return errStopping
	}
	defer h.busy.Done()
	ctx, cancel := budget(ctx, h.timeout())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.guard(pod.String(), func() error { return h.pods.Enforce(ctx, pod) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select { // it is to answer by itself when ctx ends, and has a moment for that
	case err := <-done:
		return err
	case <-time.After(answerMargin / 3):
		return fmt.Errorf("meshnetd did not finish pod %s in time: %w", pod, ctx.Err())
	}
}

// guard makes a panic an error: one pod that we cannot handle must not take the daemon from the others.
func (h *hooks) guard(what string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("meshnetd failed on %s, a bug: panic: %v", what, r)
			h.log.Error("panic in a hook", "event", "nri_panic", "error", err, "stack", string(debug.Stack()))
		}
	}()
	return do()
}

func (h *hooks) known() Runtime {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.runtime
}

// enter counts the caller as busy, unless the session is being stopped.
func (h *hooks) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return false
	}
	h.busy.Add(1)
	return true
}

// drain refuses new work and waits for what the runtime still waits for, so that no answer is lost with
// the connection: a lost answer lets the pod run.
func (h *hooks) drain() {
	h.mu.Lock()
	h.stopping = true
	h.mu.Unlock()
	h.busy.Wait()
}

// configureOnce passes the runtime's calls on to the stub, but only one Configure: the stub keeps what it
// says without a lock, and its result in a channel with room for one.
func (h *hooks) configureOnce(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if !strings.HasSuffix(info.FullMethod, "/Configure") {
		return method(ctx, unmarshal)
	}
	h.configuring.Lock()
	defer h.configuring.Unlock()
	if h.configured {
		return nil, errAborted
	}
	h.configured = true
	return method(ctx, unmarshal)
}

// abort keeps the runtime from configuring the stub, makes any other Configure fail, and says whether the
// runtime was first.
func (h *hooks) abort() (configured bool) {
	h.configuring.Lock()
	defer h.configuring.Unlock()
	configured, h.configured = h.configured, true
	h.mu.Lock()
	defer h.mu.Unlock()
	h.aborted = true
	return configured
}

func (h *hooks) unusable() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fatal
}

const (
	defaultRequestTimeout = 2 * time.Second        // of runtimes that do not say theirs
	answerMargin          = 300 * time.Millisecond // for the answer to be on its way
)

// budget returns a context that ends before the runtime gives up on us.
func budget(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		timeout = defaultRequestTimeout
	}
	deadline := time.Now().Add(timeout)
	if theirs, ok := ctx.Deadline(); ok && theirs.Before(deadline) {
		deadline = theirs
	}
	margin := min(answerMargin, timeout/2) // a runtime with a very short timeout still gets an answer
	return context.WithDeadline(ctx, deadline.Add(-margin))
}

// podOf keeps what the flow needs of a sandbox. Its addresses are read from the namespace: the runtime
// does not always tell them, and never those of secondary interfaces.
func podOf(sandbox *api.PodSandbox) rules.Pod {
	pod := rules.Pod{
		SandboxID:      sandbox.GetId(),
		UID:            sandbox.GetUid(),
		Namespace:      sandbox.GetNamespace(),
		Name:           sandbox.GetName(),
		RuntimeHandler: sandbox.GetRuntimeHandler(),
		Labels:         sandbox.GetLabels(),
		Annotations:    sandbox.GetAnnotations(),
	}
	namespaces := sandbox.GetLinux().GetNamespaces()
	listed := false
	for _, ns := range namespaces {
		switch ns.GetType() {
		case "network":
			listed = true
			pod.NetNS = ns.GetPath()
		case "user":
			pod.UserNS = true
		}
	}
	// A namespace that a specification does not list is the runtime's own, the host's. No list at all
	// proves nothing: containerd sends none where it could not read the specification.
	pod.HostNetwork = len(namespaces) > 0 && !listed
	return pod
}
