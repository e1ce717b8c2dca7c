// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what is to be done with a pod.
type Action string

// The three things that can be decided for a pod.
const (
	Skip   Action = "skip"
	Enrol  Action = "redirect"
	Reject Action = "reject"
)

// Reason says in one stable word why a pod is skipped, enrolled or rejected.
type Reason string

// The reasons, as they appear in events and in `meshnetd plan`.
const (
	ReasonInjected          Reason = "injected"           // the mesh's injector has stamped the pod
	ReasonOptIn             Reason = "opt-in"             // the pod asks by annotation
	ReasonSelected          Reason = "selected"           // a static profile of the node's configuration says so
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
	ReasonNeighbour         Reason = "neighbour"          // another plugin gives a container what the node does not let it have
	ReasonOtherNetNS        Reason = "other-netns"        // a container is to run outside its sandbox's namespace
	ReasonForbidden         Reason = "forbidden"          // an annotation asks for what the node's configuration does not allow
	ReasonTwoMeshes         Reason = "two-meshes"         // more than one mesh claims the pod
	ReasonOverBudget        Reason = "over-budget"        // asks for more bytes, items or rules than the node's configuration allows a pod
	ReasonLoosened          Reason = "loosened"           // a container would take away what the sandbox has
	ReasonBypass            Reason = "bypass"             // a container is given a way around the rules
	ReasonUnmeshed          Reason = "unmeshed"           // it would run without rules where no pod may
	ReasonOverTime          Reason = "over-time"          // it used up the time that a pod may take, a short while ago
)

// Mendable reports whether the pod's author alone can do something about the reason.
func (r Reason) Mendable() bool {
	return slices.Contains([]Reason{ReasonBadInput, ReasonForbidden, ReasonTwoMeshes, ReasonOverBudget, ReasonLoosened, ReasonBypass}, r)
}

// Decision is the pure answer to "what about this pod?". Planner is called with the pod's network once a
// namespace has been entered; it is nil unless Action is Enrol.
type Decision struct {
	Mesh           string // "" where the reason is not one mesh's
	Action         Action
	Reason         Reason
	Detail         string // one sentence for the pod's author
	Intent         any    // the mesh's settings for this pod, for explanations
	Proxy          Proxy  // whose traffic the rules let pass; of Enrol only
	Planner        func(Network) (Plan, error)
	SandboxPlanner func(Network) (Plan, error) // the plan of the sandbox alone, with what containers add to it; nil: the same as Planner
	RawSockets     bool                        // that a container keeps NET_RAW is a way around the rules
	RefusesPowers  bool                        // of Enrol: containers that are given a way around the rules are refused
	RefusesRaw     string                      // of Enrol: the lockdown by which those with packet sockets are; "" is none
	Marked         bool                        // of Skip: the pod bears an injector's mark
	Unmeshed       string                      // of Skip: which lockdown reports that, and why it is so; "" is none
	Account        *Account                    // of a decision by Explain only
}

// Mesh knows what one service mesh's labels and annotations mean.
type Mesh interface {
	// Name returns the mesh's name, such as "istio".
	Name() string
	// Decide never fails: what cannot be understood is rejected, with the reason.
	Decide(Pod) Decision
	// Explain returns what Decide does, with an account.
	Explain(Pod) Decision
	// Marked reports whether the mesh's injector marked a pod, whatever is decided about it.
	Marked(Pod) bool
	// Footprint tells the mesh's rules from others'.
	Footprint() Footprint
	// Reads reports whether a label or annotation of that key decides anything about its pod.
	Reads(key string) bool
	// Keys returns those of them that the mesh chose, which pods may misspell.
	Keys() []string
	// Refines reports whether a container of that name says more about its pod than the sandbox does.
	Refines(container string) bool
	// ReadsVariable reports whether a variable of a container of that name decides anything about its pod.
	ReadsVariable(container, name string) bool
	// Widest returns plans that together have every kind of rule that any pod's plan can have.
	Widest() []Plan
}

// InputError is a value of the pod that cannot be understood or cannot work.
type InputError struct {
	Place   string // such as "annotation traffic.sidecar.istio.io/excludeInboundPorts"
	Value   string
	Problem string
}

// How many bytes are shown of a value, and of what is wrong with it, which may quote the value: a Kubernetes event has
// room for 1024 in all, and each of the kubelet's attempts is another.
const longestValue, longestProblem = 80, 400

// longestDetail is how many bytes a decision says about itself: the sentence around it names the pod and its container.
const longestDetail = 700

// Error names the place, the value and what is wrong with it.
func (e *InputError) Error() string {
	return fmt.Sprintf("%s: %q: %s", e.Place, shortened(e.Value, longestValue), shortened(e.Problem, longestProblem))
}

// Excerpt returns a text of the pod's as a note quotes it.
func Excerpt(text string) string { return shortened(text, longestValue) }

func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
