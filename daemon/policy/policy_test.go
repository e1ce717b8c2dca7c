// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

type broken struct{ rules.Mesh }

func (broken) Decide(rules.Pod) rules.Decision { panic("broken") }

func TestWant(t *testing.T) {
	p := &Policy{Node: rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard()), linkerd.New(linkerd.Standard())}, RuntimeHandlers: []string{""}}}
	meshed := rules.Pod{Namespace: "default", Name: "web", NetNS: "/run/netns/web", Annotations: map[string]string{"sidecar.istio.io/status": "{}"}}
	outside, host, homeless, router, own := meshed, meshed, meshed, meshed, meshed
	outside.Annotations = nil
	host.HostNetwork = true
	homeless.NetNS = ""
	router.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", "router"}}}
	own.Containers = []rules.Container{{Name: "istio-init"}}
	for name, tt := range map[string]struct {
		pod     rules.Pod
		loosens bool
		want    lifecycle.Want
		result  lifecycle.Result
		own     bool // an init container's rules
	}{
		"enrolled":                   {meshed, false, lifecycle.WantRules, lifecycle.Open, false},
		"outside":                    {outside, false, lifecycle.WantNothing, lifecycle.Skipped, false},
		"the host's network":         {host, false, lifecycle.WantMarked, lifecycle.Skipped, false},
		"no namespace":               {homeless, false, lifecycle.WantReject, lifecycle.Refused, false},
		"a router":                   {router, false, lifecycle.WantReject, lifecycle.Refused, false},
		"a router that may":          {router, true, lifecycle.WantNone, lifecycle.Skipped, false},
		"an init container":          {own, false, lifecycle.WantReject, lifecycle.Refused, true},
		"an init container that may": {own, true, lifecycle.WantNone, lifecycle.Skipped, true},
	} {
		p := *p
		p.Node.Policies = []rules.CapturePolicy{{MayLoosen: tt.loosens}}
		c := p.Decide(Case{Pod: tt.pod})
		if got := p.Want(c); got != tt.want || c.Result != tt.result || (c.Err != nil) != (tt.result == lifecycle.Refused) {
			t.Errorf("%s: %d, %q, %v; want %d, %q", name, got, c.Result, c.Err, tt.want, tt.result)
		}
		if _, found := p.OwnInit(c, true); found != tt.own {
			t.Errorf("%s: an init container of its own: %v", name, found)
		}
	}
}

// A mesh that fails leaves the decision of before, and is no reason to let a pod go.
func TestBrokenMesh(t *testing.T) {
	p := &Policy{Node: rules.Node{Meshes: []rules.Mesh{broken{}}}}
	before := rules.Decision{Action: rules.Enrol, Mesh: "istio"}
	c := p.Decide(Case{Pod: rules.Pod{NetNS: "/run/netns/web"}, Decision: before})
	if c.Result != lifecycle.Failed || c.Err == nil || c.Decision.Mesh != "istio" {
		t.Errorf("%q, %v, %+v", c.Result, c.Err, c.Decision)
	}
}

// A proxy that appears late must not have the ids of a container that was let through, where impostors are refused.
func TestClash(t *testing.T) {
	uid := int64(2000)
	admitted := []rules.Container{{Name: "app", UID: &uid}}
	was := rules.Decision{Action: rules.Enrol, Proxy: rules.Proxy{UID: 1337, GID: 1337}}
	is := rules.Decision{Action: rules.Enrol, Proxy: rules.Proxy{UID: 2000, GID: 2000}}
	for identity, want := range map[config.Identity]bool{config.IdentityRefuse: true, config.IdentityReport: false, config.IdentityOff: false} {
		p := &Policy{ProxyIdentity: identity}
		if got := p.Clash(rules.Pod{}, was, is, admitted); (got != "") != want {
			t.Errorf("%s: %q", identity, got)
		}
		if got := p.Clash(rules.Pod{}, was, was, admitted); got != "" {
			t.Errorf("%s, the same proxy: %q", identity, got)
		}
	}
}
