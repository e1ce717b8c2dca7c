// SPDX-License-Identifier: Apache-2.0

// Package status is what the daemon tells of itself and of each sandbox over a unix socket that is root's alone: JSON
// over HTTP. Within v1 paths and fields are added, never changed, and lists are never null.
//
//	GET  /v1/status                  Status: the node, the last events, every pod of the mesh
//	POST /v1/reload                  reads the configuration again
//	GET  /v1/sandboxes/ID/plan       Plan: what a sandbox is to hold, and its interfaces
//	GET  /v1/sandboxes/ID/explain    Explanation: why, where each setting comes from, and what is not captured
//	GET  /v1/sandboxes/ID/verify     Verdict: the kernel compared with the plan
//	POST /v1/sandboxes/ID/repair     Verdict: the same, and brought to what the configuration says today
//
// GET of the status and of an explanation, from memory, is served to others too, where the configuration says so.
// ID is the runtime's, as in Status. A sandbox that is not known is 410 Gone.
package status

import (
	"encoding/json"
	"fmt"
	"time"
)

// Status is the daemon and the node as it sees them.
type Status struct {
	Version      string         `json:"version"` // of meshnetd
	Started      time.Time      `json:"started"`
	Backend      string         `json:"backend"`                         // what writes the rules
	Runtime      *Runtime       `json:"runtime,omitempty"`               // nil before the first session with it
	Rejected     string         `json:"configurationRejected,omitempty"` // why the configuration on disk is not in force
	Connected    bool           `json:"connected"`                       // there is a session with the runtime
	Since        time.Time      `json:"since,omitzero"`                  // when the session began, or the last one was lost
	Kubelet      *Kubelet       `json:"kubelet,omitempty"`               // nil where nobody asks it
	Waiting      *Waiting       `json:"waiting,omitempty"`               // why there is no session; nil where there is one, or nothing was tried yet
	Synchronized bool           `json:"synchronized"`                    // the pods that were there before the session are taken over
	Pods         Counts         `json:"pods"`
	Events       map[string]int `json:"events"`          // by the name of the event, since the start
	Recent       []Event        `json:"recentEvents"`    // the last ones, oldest first; none of pods outside the mesh
	Audit        *Audit         `json:"audit,omitempty"` // nil before the first one
	Sandboxes    []Sandbox      `json:"sandboxes"`

	Lacks     []Lack   `json:"lockdownLacks,omitempty"`     // what lockdowns counted since the start, and do not let pass
	LacksMore []string `json:"lockdownLacksMore,omitempty"` // the namespaces in which there was more than is remembered

	Reload func() error `json:"-"` // reads the configuration again; nil in what was read from a socket
}

// Runtime is the container runtime, and what can be had with it.
type Runtime struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	Tier      string   `json:"tier"`
	Why       string   `json:"why"`       // it is in this tier
	Validates bool     `json:"validates"` // it asks again when every plugin has had its say
	TellsUser bool     `json:"tellsUser"` // it says as which user a container runs
	Limits    []string `json:"limits"`    // sentences for the operator
}

// Waiting is why there is no session with the runtime.
type Waiting struct {
	Cause string `json:"cause"` // a word: socket, queue, registration, synchronize, runtime_gone
	Why   string `json:"why"`   // sentences for the operator
}

// Kubelet is how the kubelet tells of its pods, beside the runtime.
type Kubelet struct {
	Socket     string    `json:"socket"`
	Condition  string    `json:"condition"` // a word: absent, failing, reading, complete
	Since      time.Time `json:"since,omitzero"`
	Why        string    `json:"why,omitempty"` // it is failing
	Pods       int       `json:"pods"`          // that are known
	Left       int       `json:"left"`          // that it told of and that are not kept whole
	LeftWhy    string    `json:"leftWhy,omitempty"`
	Known      int       `json:"known"`      // pods of the mesh that were known when they started
	Asked      int       `json:"asked"`      // those that had to be asked for
	Unanswered int       `json:"unanswered"` // those of which it did not tell
}

// Counts is how many pods there are of each kind: "protected", "unprotected", "outdated".
type Counts map[string]int

// Audit is the last look at all protected sandboxes.
type Audit struct {
	Last    time.Time    `json:"last"`
	Took    Milliseconds `json:"tookMilliseconds"`
	Pods    int          `json:"pods"`
	Drifted int          `json:"drifted"`
}

// Sandbox is one pod.
type Sandbox struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	ID        string       `json:"id"` // the runtime's
	State     string       `json:"state"`
	Reason    string       `json:"reason"`
	Mesh      string       `json:"mesh"`
	Plan      string       `json:"plan"`   // the key of the plan: equal keys are equal rules
	Source    string       `json:"source"` // by whom it is known: "nri", or "nri + kubelet"
	Rules     int          `json:"rules"`
	Backend   string       `json:"backend"`
	Since     time.Time    `json:"since,omitzero"`   // in this state
	Took      Milliseconds `json:"tookMilliseconds"` // the work that led to it
	Detail    string       `json:"detail,omitempty"`
	Why       string       `json:"why,omitempty"` // what decided about it when it was last looked at
	NetNS     string       `json:"netns"`         // path of the network namespace, as the runtime named it
	Drift     Drift        `json:"drift"`
	CanBypass string       `json:"canBypass,omitempty"`   // which of its containers can go around its rules, and how, as the kubelet tells
	Lockdown  []Lockdown   `json:"lockdown,omitempty"`    // what lockdowns have counted of its packets
	NotHeld   string       `json:"notHeldBack,omitempty"` // why nothing keeps its containers back while meshnetd is away, as far as they have shown it

	Loosened string `json:"loosened,omitempty"` // what its containers took away of its rules, as a policy lets them

	Misspelt []string `json:"misspelt,omitempty"` // annotations of it that no mesh reads, each with the one that is probably meant

	Beside []string `json:"beside,omitempty"`     // what tables of others in its namespace do beside its rules, as the last look found
	Around bool     `json:"ipv6Around,omitempty"` // its IPv6 goes around its proxy, which does not speak it

	Live Live `json:"-"` // nil in what was read from a socket
}

// Lack is what a key of a lockdown would need to let pass what was counted in a namespace.
type Lack struct {
	Namespace string   `json:"namespace"`
	Lockdown  string   `json:"lockdown"` // its place in the configuration, FILE:LINE
	Key       string   `json:"key"`
	Value     string   `json:"value"` // to be added; of local_ports, to be taken out
	Seen      string   `json:"seen"`  // what was counted, in words
	Pods      []string `json:"pods"`  // some of those that it was seen in
	MorePods  bool     `json:"morePods,omitempty"`
}

// Lockdown is how many packets of a class a pod's lockdowns have counted, or closed, since the daemon knows the pod.
type Lockdown struct {
	Class   string `json:"class"`
	Action  string `json:"action"` // "counted" or "closed"
	Packets uint64 `json:"packets"`
}

// Drift is how often a sandbox's rules were found changed since the daemon knows it.
type Drift struct {
	Times int       `json:"times"`
	Last  time.Time `json:"last,omitzero"`
}

// Event is what happened to one pod.
type Event struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Sandbox   string    `json:"sandbox"` // its id
	Mesh      string    `json:"mesh"`    // "" where the reason is not one mesh's
	Reason    string    `json:"reason"`
	Message   string    `json:"message"`
}

// Milliseconds is a duration that JSON has as a number of milliseconds, to the microsecond.
type Milliseconds time.Duration

// String returns the duration as text prints it.
func (m Milliseconds) String() string { return fmt.Sprintf("%.3f ms", m.number()) }

func (m Milliseconds) number() float64 { return float64(time.Duration(m).Microseconds()) / 1000 }

// MarshalJSON never fails.
func (m Milliseconds) MarshalJSON() ([]byte, error) { return json.Marshal(m.number()) }

// UnmarshalJSON fails on what is no number.
func (m *Milliseconds) UnmarshalJSON(text []byte) error {
	var n float64
	if err := json.Unmarshal(text, &n); err != nil {
		return fmt.Errorf("a duration in milliseconds: %w", err)
	}
	*m = Milliseconds(n * float64(time.Millisecond))
	return nil
}
