// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// workloads are what may be named in place of a pod, and where the API server has them.
var workloads = []struct {
	names []string
	path  []string // within a namespace
	group string
}{
	{[]string{"deployment", "deploy", "deployments"}, []string{"deployments"}, "/apis/apps/v1"},
	{[]string{"statefulset", "sts", "statefulsets"}, []string{"statefulsets"}, "/apis/apps/v1"},
	{[]string{"daemonset", "ds", "daemonsets"}, []string{"daemonsets"}, "/apis/apps/v1"},
	{[]string{"replicaset", "rs", "replicasets"}, []string{"replicasets"}, "/apis/apps/v1"},
	{[]string{"job", "jobs"}, []string{"jobs"}, "/apis/batch/v1"},
	{[]string{"service", "svc", "services"}, []string{"services"}, "/api/v1"},
}

// eachPod asks about each pod of a name. What fails of one is said when the others have been asked; what ends with a code of its
// own, as a wrong command line does, ends the command.
func (o *options) eachPod(command *cobra.Command, name string, ask func(context.Context, *cluster, pod) error) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	pods, err := c.named(command.Context(), name)
	if err != nil {
		return &exit{exitFailed, err}
	}
	var failed []error
	for _, p := range pods {
		err := ask(command.Context(), c, p)
		var coded *exit
		if errors.As(err, &coded) {
			return err
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("pod %s/%s: %w", p.Metadata.Namespace, p.Metadata.Name, err))
		}
	}
	if len(failed) > 0 {
		return &exit{exitFailed, errors.Join(failed...)}
	}
	return nil
}

// named returns the pods of a name: a pod's; or that of a workload, whose pods that have not ended are meant. A name may be
// KIND/NAME; without a kind it is a pod's, or else the first workload's of that name.
func (c *cluster) named(ctx context.Context, name string) ([]pod, error) {
	kind, rest, qualified := strings.Cut(name, "/")
	if !qualified {
		rest = name
	}
	if rest == "" {
		return nil, fmt.Errorf("%q is no name of a pod, as in `shop-7d4b9` or `deploy/shop`", name)
	}
	if !qualified || slices.Contains([]string{"pod", "po", "pods"}, kind) {
		var p pod
		err := c.get(ctx, &p, nil, "/api/v1/namespaces", c.here, "pods", rest)
		if err == nil {
			return []pod{p}, nil
		}
		if codeOf(err) != http.StatusNotFound || qualified {
			return nil, c.advised(err, "find pod "+c.here+"/"+rest)
		}
	}
	for _, w := range workloads {
		if qualified && !slices.Contains(w.names, kind) {
			continue
		}
		pods, err := c.ofWorkload(ctx, w.names[0], rest, append([]string{w.group, "namespaces", c.here}, w.path...)...)
		if err == nil || qualified || codeOf(err) != http.StatusNotFound {
			return pods, err
		}
	}
	if qualified {
		return nil, fmt.Errorf("%s is no kind that has pods: pod, deployment, statefulset, daemonset, replicaset, job or service; a namespace is named by -n", kind)
	}
	return nil, fmt.Errorf("namespace %s has no pod %s, and no workload or service of that name (-n names another namespace)", c.here, name)
}

func (c *cluster) ofWorkload(ctx context.Context, kind, name string, path ...string) ([]pod, error) {
	var object struct {
		Spec struct {
			Selector map[string]any `json:"selector"`
		} `json:"spec"`
	}
	if err := c.get(ctx, &object, nil, append(path, name)...); err != nil {
		return nil, c.advised(err, "find "+kind+" "+c.here+"/"+name)
	}
	selector, err := selectorOf(object.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", kind, c.here, name, err)
	}
	var pods []pod
	err = list(ctx, c, url.Values{"labelSelector": {selector}}, func(p pod) error {
		if !p.ended() {
			pods = append(pods, p)
		}
		return nil
	}, c.podsPath(false)...)
	if err == nil && len(pods) == 0 {
		err = fmt.Errorf("%s %s/%s has no pods", kind, c.here, name)
	}
	return pods, err
}

// selectorOf reads a selector: a Service's labels, or those and expressions of all others.
func selectorOf(said map[string]any) (string, error) {
	read := func(labels map[string]any) map[string]string {
		all := map[string]string{}
		for key, value := range labels {
			all[key], _ = value.(string)
		}
		return all
	}
	equal, _ := said["matchLabels"].(map[string]any)
	expressions, _ := said["matchExpressions"].([]any)
	if equal == nil && expressions == nil {
		if len(said) == 0 {
			return "", fmt.Errorf("it selects no pods")
		}
		return labels.SelectorFromSet(read(said)).String(), nil
	}
	selector := metav1.LabelSelector{MatchLabels: read(equal)}
	for _, e := range expressions {
		one, _ := e.(map[string]any)
		key, _ := one["key"].(string)
		operator, _ := one["operator"].(string)
		requirement := metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(operator)}
		values, _ := one["values"].([]any)
		for _, value := range values {
			requirement.Values = append(requirement.Values, fmt.Sprint(value))
		}
		selector.MatchExpressions = append(selector.MatchExpressions, requirement)
	}
	parsed, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return "", err
	}
	return parsed.String(), nil
}

// kinds are the words before a name, for completion.
func kinds() []string {
	all := map[string]bool{}
	for _, w := range workloads {
		all[w.names[0]+"/"] = true
	}
	return slices.Sorted(maps.Keys(all))
}
