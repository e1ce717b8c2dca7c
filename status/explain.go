// SPDX-License-Identifier: Apache-2.0

package status

// Explanation is why a pod is treated as it is, and what that leaves out.
type Explanation struct {
	Namespace   string    `json:"namespace"`
	Name        string    `json:"name"`
	Mesh        string    `json:"mesh"`
	Action      string    `json:"action"`
	Reason      string    `json:"reason"`
	Detail      string    `json:"detail"`
	Steps       []string  `json:"steps"`    // how it was decided, in order
	Settings    []Setting `json:"settings"` // of a pod that is redirected
	Notes       []string  `json:"notes"`
	Rules       []Rule    `json:"rules"`
	Routes      []Route   `json:"routes"`
	Loopback    []string  `json:"loopback"`
	NotCaptured []Gap     `json:"notCaptured"`
	Beside      []string  `json:"beside"` // what tables of others in the pod's namespace do beside its rules
	Key         string    `json:"plan"`
}

// Setting is one value of what a pod is to have.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // an annotation, a container's argument, a line of the configuration, or "built-in default"
}

// Gap is traffic that does not go through the pod's proxy.
type Gap struct {
	What     string   `json:"what"`
	Trace    []string `json:"trace"`              // the arguments by which `meshnetd trace` shows it; none where it cannot
	Lockdown string   `json:"lockdown,omitempty"` // what the pod's lockdowns do with it: open, counted or closed, and as which class; "" without one
}

// Complete returns the explanation with empty lists for absent ones, as the socket tells it.
func (e Explanation) Complete() Explanation { return complete(e) }
