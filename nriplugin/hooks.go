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

// The stub finds hooks by their signature, and silently ignores one whose signature is wrong.
var (
	_ stub.ConfigureInterface                   = (*hooks)(nil)
	_ stub.SynchronizeInterface                 = (*hooks)(nil)
	_ stub.RunPodInterface                      = (*hooks)(nil)
	_ stub.CreateContainerInterface             = (*hooks)(nil)
	_ stub.ValidateContainerAdjustmentInterface = (*hooks)(nil)
	_ stub.StartContainerInterface              = (*hooks)(nil)
)

var (
	errStopping = errors.New("meshnetd is being stopped on this node: the pod is tried again once it is back")
	errAborted  = errors.New("the registration is over")
	errClosed   = errors.New("the runtime closed the connection before it was ready")
)

// hooks is what the runtime calls during one session.
type hooks struct {
	pods     Enforcer
	name     string // of this plugin, as its index
	index    string
	log      *slog.Logger
	timeout  func() time.Duration // the runtime's request timeout, once it is known
	synced   func(Runtime)
	declined string // the unknown runtime that refused to be asked for validation; "" is none

	told told // by the messages of Synchronize

	configuring sync.Mutex // held during Configure
	configured  bool       // no further Configure is let through; guarded by configuring

	mu       sync.Mutex
	runtime  Runtime
	asked    bool // the runtime was told which events are wanted
	accepted bool // the runtime has agreed to what it was asked for, and has told which pods there are
	aborted  bool
	fatal    error          // why this runtime cannot be used
	stopping bool           // no new work
	busy     sync.WaitGroup // work that the runtime waits for
}

// Configure learns what the runtime is and asks for its events.
func (h *hooks) Configure(_ context.Context, _, name, version string) (api.EventMask, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.aborted {
		return 0, errAborted
	}
	h.runtime, h.fatal = Identify(name, version)
	if h.fatal != nil {
		return 0, h.fatal
	}
	if h.runtime.guessed && h.runtime.String() == h.declined {
		h.runtime = h.runtime.withoutValidation()
	}
	h.asked = true
	return h.runtime.events(), nil
}

// Synchronize takes over the pods that exist already. A single pod must not keep the daemon from the others, so it fails
// only where nothing can be done at all.
func (h *hooks) Synchronize(ctx context.Context, sandboxes []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	if !h.enter() {
		return nil, errStopping
	}
	defer h.busy.Done()
	h.mu.Lock()
	h.accepted = true
	h.mu.Unlock()
	ctx, cancel := budget(ctx, h.timeout())
	defer cancel()
	h.told.hear(h.pods, sandboxes, containers)
	pods := h.told.all()
	_ = h.guard("the pods of this node", func() error { h.pods.Synchronize(ctx, pods); return nil })
	h.synced(h.known())
	return nil, nil
}

// RunPodSandbox protects a pod before its first container is created, or refuses it.
func (h *hooks) RunPodSandbox(ctx context.Context, sandbox *api.PodSandbox) error {
	pod := podOf(sandbox)
	err := h.ask(ctx, pod, func(ctx context.Context) error { return h.pods.Enforce(ctx, pod) })
	if err != nil && h.known().RefuseLate {
		return nil // the same question is asked again for each of its containers
	}
	return err
}

// CreateContainer makes sure that the sandbox is protected, or refuses the container.
func (h *hooks) CreateContainer(ctx context.Context, sandbox *api.PodSandbox, container *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	pod := podOf(sandbox)
	return nil, nil, h.ask(ctx, pod, func(ctx context.Context) error { return h.pods.Admit(ctx, pod, containerOf(container)) })
}

// ValidateContainerAdjustment looks at the container as all plugins have left it, and at the kernel.
func (h *hooks) ValidateContainerAdjustment(ctx context.Context, req *api.ValidateContainerAdjustmentRequest) error {
	pod := podOf(req.GetPod())
	return h.ask(ctx, pod, func(ctx context.Context) error {
		c := adjusted(req)
		if !h.pods.Outside(pod) {
			c.Review = reviewOf(req, h.name, h.index)
		}
		return h.pods.Validate(ctx, pod, c)
	})
}

// StartContainer looks at the kernel again: hooks of the runtime have run since Validate.
func (h *hooks) StartContainer(ctx context.Context, sandbox *api.PodSandbox, container *api.Container) error {
	pod := podOf(sandbox)
	if h.pods.Outside(pod) {
		return nil
	}
	// While meshnetd is being stopped this is asked as well: a start that is refused may be final for the pod, and an answer
	// that is lost is none, as if meshnetd had gone already.
	if h.enter() {
		defer h.busy.Done()
	}
	return h.inTime(ctx, pod, func(ctx context.Context) error {
		return h.pods.Start(ctx, pod, nameOf(container), h.known().Unheeded)
	})
}

// ask refuses what takes time while meshnetd is being stopped.
func (h *hooks) ask(ctx context.Context, pod rules.Pod, question func(context.Context) error) error {
	if !h.enter() {
		return h.askFromMemory(ctx, pod, question)
	}
	defer h.busy.Done()
	return h.inTime(ctx, pod, question)
}

// inTime answers before the runtime's own deadline: an error in time refuses the pod, an answer that comes
// late lets it run without rules.
func (h *hooks) inTime(ctx context.Context, pod rules.Pod, question func(context.Context) error) error {
	ctx, cancel := budget(ctx, h.timeout())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.guard(pod.String(), func() error { return question(ctx) }) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select { // the question ends with ctx, and has a moment to answer
	case err := <-done:
		return err
	case <-time.After(answerMargin / 3):
		return fmt.Errorf("meshnetd did not finish pod %s in time: %w", pod, ctx.Err())
	}
}

// askFromMemory answers while meshnetd is being stopped: what takes no time, so that the rest of the node goes on.
// Everything else is refused.
func (h *hooks) askFromMemory(ctx context.Context, pod rules.Pod, question func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if h.guard(pod.String(), func() error { return question(ctx) }) != nil {
		return errStopping
	}
	return nil
}

// guard turns a panic into an error: one pod must not take the daemon from the others.
func (h *hooks) guard(what string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("meshnetd failed on %s, a bug: panic: %v", what, r)
			h.log.Error("panic in a hook", "event", "nri_panic", "error", err, "stack", string(debug.Stack()))
		}
	}()
	return do()
}

// declines returns the runtime where a session may have failed because an unknown runtime was asked for validation, on
// which it closes the connection without a word; else "".
func (h *hooks) declines(gone bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if gone && h.runtime.guessed && h.runtime.Validates && !h.accepted {
		return h.runtime.String()
	}
	return ""
}

// untold reports whether the session ended before the runtime told its pods, although that was next.
func (h *hooks) untold() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked && !h.accepted
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

// drain refuses new work and waits until all answers are given: an answer that is lost with the connection lets the pod
// run.
func (h *hooks) drain() {
	h.mu.Lock()
	h.stopping = true
	h.mu.Unlock()
	h.busy.Wait()
}

// intercept passes the runtime's calls on to the stub, but only one Configure: the stub stores it without a lock, and its
// result in a channel with room for one. The stub also stores all messages of Synchronize until the last one has come, so
// nothing of them is passed on: what decides is kept here.
func (h *hooks) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	switch {
	case strings.HasSuffix(info.FullMethod, "/Synchronize"):
		return method(ctx, func(message any) error {
			err := unmarshal(message)
			if request, ok := message.(*api.SynchronizeRequest); ok && err == nil {
				h.told.hear(h.pods, request.GetPods(), request.GetContainers())
				request.Pods, request.Containers = nil, nil
			}
			return err
		})
	case !strings.HasSuffix(info.FullMethod, "/Configure"):
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

// abort keeps the runtime from configuring the stub, and reports whether it already had. Any other Configure fails.
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
