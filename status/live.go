// SPDX-License-Identifier: Apache-2.0

package status

import "context"

// Live is how the daemon looks at one of its sandboxes itself. Its functions may be called many times at once,
// and end with their context.
type Live interface {
	// Plan returns what the sandbox is to hold.
	Plan() Plan
	// Explain says why it is to hold that, and what of the pod's traffic that leaves out.
	Explain() Explanation
	// Recall says the same from memory alone, without the interfaces that the pod really has.
	Recall() Explanation
	// Verify compares the kernel with that, rule by rule, and changes nothing.
	Verify(context.Context) Verdict
	// Repair brings the rules back to what the configuration says today.
	Repair(context.Context) Verdict
}

// Result is what came of a look at a sandbox.
type Result string

// The results.
const (
	Whole     Result = "whole"     // the kernel holds the plan
	Alike     Result = "alike"     // it holds other rules, which do what the plan says, or more
	Different Result = "different" // it does not, and other rules do less, or nobody can tell
	Repaired  Result = "repaired"  // it did not, and does now
	Exempt    Result = "exempt"    // the pod is to have no rules, and has none
	Gone      Result = "gone"      // the sandbox has ended: its network namespace is not there any more
	Failed    Result = "failed"    // it could not be told, or not be repaired
)

// Verdict is what a look at a sandbox found.
type Verdict struct {
	Result      Result       `json:"result"`
	Differences []string     `json:"differences"`       // before the repair
	Effect      string       `json:"effect,omitempty"`  // what the rules do beside the plan, such as "takes less"; of Verify only
	Packets     []string     `json:"packets,omitempty"` // of those that show it, one of a kind
	Beside      []string     `json:"beside,omitempty"`  // what tables of others do, one by one; of Verify only
	Rules       int          `json:"rules"`             // of the plan
	Plan        string       `json:"plan"`              // its key
	Took        Milliseconds `json:"tookMilliseconds"`
	Detail      string       `json:"detail,omitempty"` // why it failed, is gone, or there are no rules
}

// Plan is what a sandbox is to hold.
type Plan struct {
	NetNS    string   `json:"netns"` // path of the network namespace
	Inode    uint64   `json:"inode"` // of the namespace that the rules were written to; 0 where there is none yet
	Device   uint64   `json:"device"`
	Key      string   `json:"plan"`
	Rules    []Rule   `json:"rules"`
	Routes   []Route  `json:"routes"`
	Loopback []string `json:"loopback"` // addresses on lo, with the length of their prefixes

	Interfaces []Interface `json:"interfaces"` // of the namespace, in the kernel's order; none where they could not be read
}

// Interface is one of the pod's, with its addresses.
type Interface struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
}

// Rule is one rule, in the order of its chain.
type Rule struct {
	Family int    `json:"family"` // 4 or 6
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Rule   string `json:"rule"` // as iptables-save prints it, without "-A CHAIN"
	Why    string `json:"why"`
}

// Route leads what has a mark to the pod itself.
type Route struct {
	Family int    `json:"family"`
	Mark   uint32 `json:"mark"`
	Table  int    `json:"table"`
}
