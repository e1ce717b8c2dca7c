// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// cluster is what is asked: the API server, and through it the daemons.
type cluster struct {
	*options
	config *rest.Config
	api    rest.Interface
	here   string // the namespace that kubectl's flags name
}

func (o *options) cluster() (*cluster, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	here, _, err := o.kube.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, &exit{exitFailed, err}
	}
	config, err := o.kube.ToRESTConfig()
	if err != nil {
		return nil, &exit{exitFailed, fmt.Errorf("find the cluster: %w", err)}
	}
	config.QPS = -1 // --parallel is the limit
	config.UserAgent = "kubectl-meshnetd/" + buildVersion()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"}) // by which errors are read
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	api, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, &exit{exitFailed, fmt.Errorf("find the cluster: %w", err)}
	}
	return &cluster{options: o, config: config, api: api, here: here}, nil
}

const mostBytes = 64 << 20 // of one answer; a page of 500 pods has some megabytes

// get reads what is at the path into a value. what says what is asked, for the error.
func (c *cluster) get(ctx context.Context, into any, query url.Values, path ...string) error {
	request := c.api.Get().AbsPath(path...).MaxRetries(1).SetHeader("Accept", "application/json")
	for key, values := range query {
		for _, value := range values {
			request.Param(key, value)
		}
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(io.LimitReader(body, mostBytes)).Decode(into)
}

// metadata is what is needed of any object.
type metadata struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	Labels            map[string]string `json:"labels"`
	CreationTimestamp string            `json:"creationTimestamp"`
	DeletionTimestamp string            `json:"deletionTimestamp"`
}

// list calls take with each object of all pages.
func list[T any](ctx context.Context, c *cluster, query url.Values, take func(T) error, path ...string) error {
	query.Set("limit", fmt.Sprint(pageSize))
	for {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []T `json:"items"`
		}
		if err := c.get(ctx, &page, query, path...); err != nil {
			return c.advised(err, "list "+path[len(path)-1])
		}
		for _, item := range page.Items {
			if err := take(item); err != nil {
				return err
			}
		}
		if page.Metadata.Continue == "" {
			return nil
		}
		query.Set("continue", page.Metadata.Continue)
	}
}

const pageSize = 500

// pod is what is needed of one to find its daemon.
type pod struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		NodeName    string `json:"nodeName"`
		HostNetwork bool   `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIPs []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func (p pod) ended() bool { return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" }

func (p pod) addresses() []netip.Addr {
	var all []netip.Addr
	for _, entry := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(entry.IP); err == nil {
			all = append(all, addr)
		}
	}
	return all
}

func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True" && p.Metadata.DeletionTimestamp == ""
		}
	}
	return false
}

// place is a node, with the pod of meshnetd that speaks for it; nil where there is none.
type place struct {
	node   string
	daemon *pod
}

var errNoDaemon = errors.New("no pod of meshnetd is there: it runs by systemd, which is asked on the node (`meshnetd status`), or not at all")

// places returns the nodes with these labels, each with its daemon.
func (c *cluster) places(ctx context.Context, selector string) ([]place, error) {
	daemons, err := c.daemons(ctx, "")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if selector != "" {
		query.Set("labelSelector", selector)
	}
	var all []place
	err = list(ctx, c, query, func(node struct {
		Metadata metadata `json:"metadata"`
	}) error {
		all = append(all, place{node.Metadata.Name, daemons[node.Metadata.Name]})
		return nil
	}, "/api/v1/nodes")
	return all, err
}

// daemons returns the pod of meshnetd of each node, or of one: the ready one of two in an upgrade, else the newer one.
func (c *cluster) daemons(ctx context.Context, node string) (map[string]*pod, error) {
	query := url.Values{"labelSelector": {"app.kubernetes.io/name=meshnetd"}}
	if node != "" {
		query.Set("fieldSelector", "spec.nodeName="+node)
	}
	all := map[string]*pod{}
	err := list(ctx, c, query, func(p pod) error {
		other := all[p.Spec.NodeName]
		if other == nil || p.ready() && !other.ready() || p.ready() == other.ready() && p.Metadata.CreationTimestamp > other.Metadata.CreationTimestamp {
			all[p.Spec.NodeName] = &p
		}
		return nil
	}, "/api/v1/namespaces", c.namespace, "pods")
	return all, err
}

var errNoNode = errors.New("it is on no node yet: `kubectl describe` says what it waits for")

// of returns the place of a pod.
func (c *cluster) of(ctx context.Context, node string) (place, error) {
	if node == "" {
		return place{}, errNoNode
	}
	daemons, err := c.daemons(ctx, node)
	return place{node, daemons[node]}, err
}

// tell reads what the daemon of a place tells at a path.
func (c *cluster) tell(ctx context.Context, at place, into any, path string) error {
	if at.daemon == nil {
		return errNoDaemon
	}
	err := c.get(ctx, into, nil, "/api/v1/namespaces", c.namespace, "pods", fmt.Sprintf("%s:%d", at.daemon.Metadata.Name, c.port), "proxy", path)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("does not answer: %w", ctx.Err())
	}
	if err != nil {
		return c.advised(err, "ask "+at.daemon.Metadata.Name)
	}
	return nil
}

// advised says what to do about an answer of the API server.
func (c *cluster) advised(err error, what string) error {
	var advice string
	switch code := codeOf(err); {
	case code == http.StatusForbidden:
		advice = fmt.Sprintf("; the chart's kubectl.read makes the Roles to bind (and kubectl.exec those for verify and doctor): see `helm -n %s get notes`", c.namespace)
	case code == http.StatusNotFound && strings.HasPrefix(what, "ask"):
		advice = "; its status is not served there: metrics.status in its configuration, the chart's kubectl.read, is off, or it is older"
	case code == http.StatusServiceUnavailable && strings.Contains(err.Error(), "refused"):
		advice = fmt.Sprintf("; nobody listens on port %d (--port, the chart's metrics.enabled and metrics.port)", c.port)
	}
	return fmt.Errorf("%s: %w%s", what, err, advice)
}

func codeOf(err error) int {
	var said apierrors.APIStatus
	if errors.As(err, &said) {
		return int(said.Status().Code)
	}
	return 0
}
