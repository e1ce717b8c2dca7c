// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// run runs meshnetd in a place's container, and returns how it ended. Who may do that is root of the node, so that only what
// cannot be read does it. What it says is passed on when it ends, without control characters: it quotes what pods have.
func (c *cluster) run(ctx context.Context, at place, out, errs io.Writer, args ...string) (code int, err error) {
	if at.daemon == nil {
		return 0, errNoDaemon
	}
	request := c.api.Post().AbsPath("/api/v1/namespaces", c.namespace, "pods", at.daemon.Metadata.Name, "exec").
		Param("container", "meshnetd").Param("stdout", "true").Param("stderr", "true").Param("command", "meshnetd")
	for _, arg := range args {
		request.Param("command", arg)
	}
	websocket, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return 0, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.config, "POST", request.URL())
	if err != nil {
		return 0, err
	}
	either, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return 0, err
	}
	var said, wrong bytes.Buffer
	err = either.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &said, Stderr: &wrong})
	_, _ = io.WriteString(out, explain.PlainLines(said.String())) // an error of the terminal is nobody's to hear
	_, _ = io.WriteString(errs, explain.PlainLines(wrong.String()))
	var ended exec.CodeExitError
	if errors.As(err, &ended) {
		return ended.Code, nil
	}
	if err != nil {
		err = c.advised(err, "run meshnetd in "+at.daemon.Metadata.Name)
		if strings.Contains(err.Error(), "forbidden") && codeOf(err) == 0 { // an upgrade that fails has no status
			err = fmt.Errorf("%w; the chart's kubectl.exec makes the Role to bind", err)
		}
	}
	return 0, err
}

func verifyCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify POD | KIND/NAME",
		Short: "Compare a pod with the kernel as it is now, rule by rule; --traffic sends packets",
		Long: "Runs `meshnetd verify` in the container of the pod's node, which needs the Role of the chart's kubectl.exec: who has it is root\n" +
			"of every node. --traffic needs the capabilities that the chart's extraCapabilities name.\n\n" +
			"Exit codes are those of `meshnetd verify`: 0 all is as it should be; 1 failed; 2 wrong command line; 4 differences.",
		Example: "  kubectl meshnetd verify cart-7d4b9 -n shop\n  kubectl meshnetd verify deploy/cart --traffic",
		Args:    cobra.ExactArgs(1),
	}
	traffic := c.Flags().Bool("traffic", false, "send the packets that show what the kernel does")
	c.ValidArgsFunction = o.completePods
	c.RunE = func(c *cobra.Command, args []string) error {
		worst := 0
		err := o.eachPod(c, args[0], func(ctx context.Context, k *cluster, p pod) error {
			name := p.Metadata.Namespace + "/" + p.Metadata.Name
			fmt.Fprintln(c.OutOrStdout(), name)
			verify := []string{"verify", name}
			if *traffic {
				verify = append(verify, "--traffic")
			}
			at, err := k.of(ctx, p.Spec.NodeName)
			if err != nil {
				return err
			}
			code, err := k.run(ctx, at, c.OutOrStdout(), c.ErrOrStderr(), verify...)
			worst = max(worst, code)
			return err
		})
		if worst > exitFailed || err == nil && worst != 0 {
			err = &exit{worst, cmp.Or(err, errSaid)}
		}
		return err
	}
	return c
}

// checkup is what doctor said of a node.
type checkup struct {
	code int
	text string
}

func doctorCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at every node, or one, and say what to do for each finding",
		Long: "Runs `meshnetd doctor` in the container of each node, which needs the Role of the chart's kubectl.exec: who has it is root of\n" +
			"every node. From there the daemon and the kernel are seen. What it says of the runtime, its validator and CNI is \"unseen\" where\n" +
			"the container has no files of theirs: run meshnetd doctor on the node for these.\n\n" +
			"Exit 0 when all is fine; 1 when there are warnings, or a node did not answer; 2 when something is broken.",
		Example: "  kubectl meshnetd doctor\n  kubectl meshnetd doctor --node worker-7",
		Args:    cobra.NoArgs,
	}
	name := c.Flags().String("node", "", "only this `NODE`")
	_ = c.RegisterFlagCompletionFunc("node", o.complete(at("/api/v1", "nodes"))) // fails only for no flag
	selector := selectorFlag(c, "nodes")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		places, err := k.places(c.Context(), *selector)
		if *name != "" {
			places = slices.DeleteFunc(places, func(at place) bool { return at.node != *name })
		}
		if err == nil && len(places) == 0 {
			err = errors.New("there is no such node")
		}
		if err != nil {
			return &exit{exitFailed, err}
		}
		worst := 0
		bar := newProgress(c.ErrOrStderr(), len(places))
		each(c.Context(), k, places, func(ctx context.Context, at place) (checkup, error) {
			var text bytes.Buffer
			code, err := k.run(ctx, at, &text, &text, "doctor")
			return checkup{code, text.String()}, err
		}, func(at place, said checkup, err error) {
			bar.step(func() {
				if err != nil {
					said = checkup{exitFailed, status.Plain(err.Error()) + "\n"}
				}
				worst = max(worst, said.code)
				fmt.Fprintf(c.OutOrStdout(), "node %s\n%s\n", at.node, said.text)
			})
		})
		if worst != 0 {
			return &exit{worst, errSaid}
		}
		return nil
	}
	return c
}
