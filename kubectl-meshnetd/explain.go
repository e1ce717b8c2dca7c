// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func explainCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "explain POD | KIND/NAME",
		Short: "Say why a pod is treated as it is: each decision, setting and rule, and what is not captured",
		Long: "Asks the daemon of the pod's node. A pod that it does not know is decided here, by its manifest and the configuration of the\n" +
			"chart's ConfigMap. Of a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or Service each pod is explained.\n\n" +
			"Exit 0 for pods that are redirected or left alone; 1 no such pod, or its node does not answer; 2 wrong command line;\n" +
			"3 a pod, or a container of it, is refused.",
		Example: "  kubectl meshnetd explain cart-7d4b9 -n shop\n  kubectl meshnetd explain deploy/cart -o json | jq -r '.[].notCaptured[].what'",
		Args:    cobra.ExactArgs(1),
	}
	o.outputFlag(c, "json", "yaml")
	c.ValidArgsFunction = o.completePods
	c.RunE = func(c *cobra.Command, args []string) error {
		shown := newTable(c.OutOrStdout(), o.output, nil)
		all := []status.Explanation{}
		refused := false
		err := o.eachPod(c, args[0], func(ctx context.Context, k *cluster, p pod) error {
			x, err := k.explain(ctx, p)
			if err != nil {
				return err
			}
			all = append(all, x)
			refused = refused || x.Action == string(rules.Reject)
			if o.output != "" {
				return nil
			}
			defer fmt.Fprintln(c.OutOrStdout())
			return explain.Print(c.OutOrStdout(), x)
		})
		if err := shown.document(all); err != nil {
			return err
		}
		if err == nil && refused {
			err = &exit{exitRefused, errSaid}
		}
		return err
	}
	return c
}

// explain asks the pod's daemon, or decides here where that does not know the pod.
func (c *cluster) explain(ctx context.Context, p pod) (status.Explanation, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*c.patience)
	defer cancel()
	at, sb, err := c.sandbox(ctx, p)
	if err != nil {
		return status.Explanation{}, err
	}
	if sb == nil {
		return c.decideHere(ctx, at, p)
	}
	var x status.Explanation
	err = c.tell(ctx, at, &x, "/v1/sandboxes/"+sb.ID+"/explain")
	if codeOf(err) == http.StatusGone {
		err = errors.New("it has ended just now")
	}
	return x, err
}

// sandbox returns what the pod's daemon knows of it; nil where that is nothing.
func (c *cluster) sandbox(ctx context.Context, p pod) (place, *status.Sandbox, error) {
	at, err := c.of(ctx, p.Spec.NodeName)
	if err != nil {
		return at, nil, err
	}
	var s status.Status
	if err := c.tell(ctx, at, &s, statusPath); err != nil {
		return at, nil, fmt.Errorf("node %s: %w", at.node, err)
	}
	var found *status.Sandbox
	for _, sb := range s.Sandboxes {
		if sb.Namespace == p.Metadata.Namespace && sb.Name == p.Metadata.Name && (found == nil || sb.Since.After(found.Since)) {
			found = &sb
		}
	}
	return at, found, nil
}

// decideHere explains a pod by its manifest.
func (c *cluster) decideHere(ctx context.Context, at place, p pod) (status.Explanation, error) {
	cfg, where, err := c.configuration(ctx, at, "")
	if err != nil {
		return status.Explanation{}, err
	}
	var raw json.RawMessage
	if err := c.get(ctx, &raw, nil, "/api/v1/namespaces", p.Metadata.Namespace, "pods", p.Metadata.Name); err != nil {
		return status.Explanation{}, c.advised(err, "read the pod")
	}
	decided, err := manifest.Read(bytes.NewReader(raw))
	if err != nil {
		return status.Explanation{}, err
	}
	v := explain.Decided(cfg, decided, explain.Node(cfg).Explain(decided))
	x := explain.Of(v, explain.Assumed(decided.IPs)).Complete()
	x.Notes = append([]string{"the daemon of node " + at.node + " does not know this pod: this is decided by its manifest, and by " + where}, x.Notes...)
	return x, nil
}

// configuration returns a file's, that of the chart's ConfigMap, or the built-in one; and which.
func (c *cluster) configuration(ctx context.Context, at place, file string) (cfg config.Config, where string, err error) {
	if file != "" {
		if cfg, err = config.Load(file); err != nil {
			err = &exit{exitBadLine, err}
		}
		return cfg, file, err
	}
	if at.daemon == nil {
		return config.Default(), "the built-in configuration (--config names another)", nil
	}
	name := at.daemon.Metadata.Labels["app.kubernetes.io/instance"]
	var stored struct {
		Data map[string]string `json:"data"`
	}
	if err := c.get(ctx, &stored, nil, "/api/v1/namespaces", c.namespace, "configmaps", name); err != nil {
		return cfg, "", c.advised(err, "read meshnetd's configuration")
	}
	where = "ConfigMap " + c.namespace + "/" + name
	cfg, err = config.Parse(where, stored.Data["meshnetd.toml"])
	if err != nil {
		err = fmt.Errorf("a newer release's key? %w", err)
	}
	return cfg, where, err
}
