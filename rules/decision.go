// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
)

// Action is what is to be done with a pod.
type Action string

// The three things that can be decided for a pod.
const (
	Skip     Action = "skip"
	Enrol    Action = "redirect"
	Rejected Action = "reject"
)

// Reason says in one stable word why a pod is skipped, enrolled or rejected.
type Reason string

// The reasons, as they appear in events and in `meshnetd plan`.
const (
	ReasonInjected          Reason = "injected"           // the mesh's injector has stamped the pod
	ReasonOptIn             Reason = "opt-in"             // the pod asks by annotation
	ReasonNotInjected       Reason = "not-injected"       // no trace of the mesh's injector
	ReasonNamespaceExcluded Reason = "namespace-excluded" // node configuration
	ReasonHostNetwork       Reason = "host-network"       // shares the node's network
	ReasonInitContainer     Reason = "init-container"     // sets itself up with an init container
	ReasonInjectDisabled    Reason = "inject-disabled"    // label or annotation says no
	ReasonNoProxy           Reason = "no-proxy"           // has no sidecar proxy
	ReasonNotSidecar        Reason = "not-a-sidecar"      // gateway or proxyless gRPC
	ReasonInterceptionNone  Reason = "interception-none"  // interceptionMode: NONE
	ReasonBuildPod          Reason = "openshift-build"    // OpenShift deployer or build pod
	ReasonBadInput          Reason = "bad-input"          // an annotation or argument cannot be understood
	ReasonRuntimeHandler    Reason = "runtime-handler"    // the sandbox does not use the node's kernel network
	ReasonNoNetNS           Reason = "no-netns"           // belongs to the mesh but has no namespace to write to
)

// Decision is the pure answer to "what about this pod?". Plan is called with the pod's addresses once a
// namespace has been entered; it is nil unless Action is Enrol.
type Decision struct {
	Mesh    string
	Action  Action
	Reason  Reason
	Detail  string // one sentence for the pod's author
	Intent  any    // the mesh's settings for this pod, for explanations
	Planner func(ips []netip.Addr) (Plan, error)
}

// Mesh knows what one service mesh's labels and annotations mean.
type Mesh interface {
	// Name returns the mesh's name, such as "istio".
	Name() string
	// Decide never fails: what cannot be understood is rejected, with the reason.
	Decide(Pod) Decision
	// Footprint tells the mesh's rules from others'.
	Footprint() Footprint
}

// InputError is a value of the pod that cannot be understood or cannot work.
type InputError struct {
	Place   string // such as "annotation traffic.sidecar.istio.io/excludeInboundPorts"
	Value   string
	Problem string
}

// Error names the place, the value and what is wrong with it.
func (e *InputError) Error() string {
	return fmt.Sprintf("%s: %q: %s", e.Place, e.Value, e.Problem)
}
