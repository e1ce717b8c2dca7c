// SPDX-License-Identifier: Apache-2.0

// Package cri asks the container runtime, as a kubelet would, for what NRI cannot: to stop a sandbox.
package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Socket returns the path at which a runtime usually serves CRI, by the name the runtime says over NRI, or
// "" for a runtime that is not known.
func Socket(runtime string) string {
	switch strings.ToLower(runtime) {
	case "containerd":
		return "/run/containerd/containerd.sock"
	case "cri-o", "crio":
		return "/var/run/crio/crio.sock"
	}
	return ""
}

// Client calls a runtime. It holds no connection between calls: they are rare, and the runtime may have
// been restarted meanwhile.
type Client struct {
	Socket string // path of the runtime's CRI socket
}

// StopPodSandbox ends all processes of a sandbox and takes its network away; the kubelet then makes a new
// one. A sandbox the runtime does not know is a stopped one. The call ends with ctx, at the latest; its
// error then wraps that of ctx, and says in any case what to check.
func (c Client) StopPodSandbox(ctx context.Context, sandboxID string) error {
	if err := c.stop(ctx, sandboxID); err != nil {
		return fmt.Errorf("stop sandbox %s over CRI at %q: %w", sandboxID, c.Socket, err)
	}
	return nil
}

func (c Client) stop(ctx context.Context, sandboxID string) error {
	if c.Socket == "" {
		return errors.New("no socket is known for this runtime: set cri_socket")
	}
	conn, err := c.connect()
	if err != nil {
		return fmt.Errorf("%w: cri_socket is to be a path", err)
	}
	defer func() { _ = conn.Close() }() // its error means nothing after the answer
	_, err = criv1.NewRuntimeServiceClient(conn).StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: sandboxID})
	switch code := status.Code(err); {
	case err == nil || code == codes.NotFound:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("no answer in time: %w (%w): look whether the runtime is stuck", ctx.Err(), err)
	case code == codes.Unavailable:
		return fmt.Errorf("%w: check cri_socket, that the runtime runs, and that meshnetd may open its socket "+
			"(as root, in a container by a mount)", err)
	case code == codes.Unimplemented:
		return fmt.Errorf("%w: what listens there does not serve CRI v1; check cri_socket", err)
	default:
		return fmt.Errorf("%w: look at the runtime's log", err)
	}
}
