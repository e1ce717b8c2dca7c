// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
)

// answer is what verify found of one pod.
type answer struct {
	Namespace string          `json:"namespace"`
	Name      string          `json:"name"`
	ID        string          `json:"id,omitempty"` // of the sandbox
	NetNS     string          `json:"netns"`
	Verdict   *status.Verdict `json:"verdict,omitempty"`
	Traffic   []packet        `json:"traffic,omitempty"`
	Error     string          `json:"error,omitempty"` // why nothing was found out

	checks []traffic.Check
	sent   bool
}

// packet is one packet that was sent.
type packet struct {
	Verdict string `json:"verdict"`
	About   string `json:"about"`
	Packet  string `json:"packet,omitempty"`
	Seen    string `json:"seen,omitempty"`
	Rules   string `json:"rules,omitempty"` // where the rules say that it ends
	Note    string `json:"note,omitempty"`
}

// answers prints one answer after the other, or all as JSON, and remembers how to end.
type answers struct {
	out    io.Writer
	json   bool
	prefix bool // each line is to name its pod

	all       []answer
	different int // differences, or packets that went wrong
}

// add takes one more answer. Its error is that of the output.
func (a *answers) add(one answer) error {
	a.all = append(a.all, one)
	a.different += traffic.Counts(one.checks)[traffic.Wrong]
	if v := one.Verdict; v != nil && v.Result == status.Different {
		a.different += max(1, len(v.Differences))
	}
	if a.json {
		return nil
	}
	prefix := ""
	if a.prefix {
		prefix = one.Namespace + "/" + one.Name + ": "
	}
	for _, line := range one.lines() {
		if _, err := fmt.Fprintf(a.out, "%s%s\n", prefix, explain.PlainLines(strings.ReplaceAll(line, "\n", " "))); err != nil {
			return err
		}
	}
	return nil
}

// lines are the answer for people.
func (one answer) lines() []string {
	switch v := one.Verdict; {
	case one.Error != "":
		return nil // it is no answer
	case one.sent && len(one.checks) == 0:
		return []string{"nothing to send: the pod is to have no rules"}
	case one.sent:
		var lines []string
		for _, c := range one.checks {
			lines = append(lines, c.String())
		}
		return append(lines, traffic.Summary(one.checks))
	default:
		return verdictLines(*v)
	}
}

func verdictLines(v status.Verdict) []string {
	switch v.Result {
	case status.Whole:
		return append([]string{fmt.Sprintf("the kernel holds the plan: %d rules", v.Rules)}, besideLines(v)...)
	case status.Exempt:
		return []string{"nothing to verify: " + v.Detail}
	case status.Different, status.Alike:
		return append(slices.Clone(v.Differences), effectLines(v)...)
	case status.Repaired:
		return append(v.Differences, fmt.Sprintf("repaired: the kernel holds the plan: %d rules", v.Rules))
	case status.Failed, status.Gone:
	}
	return nil
}

// effectLines say what the rules that are there do to packets, compared with the plan.
func effectLines(v status.Verdict) []string {
	if v.Effect == "" {
		return nil
	}
	lines := []string{"by what becomes of packets: " + v.Effect}
	for _, p := range v.Packets {
		lines = append(lines, "  "+p)
	}
	return append(lines, besideLines(v)...)
}

func besideLines(v status.Verdict) (lines []string) {
	for _, table := range v.Beside {
		lines = append(lines, "beside the pod's rules: "+table)
	}
	return lines
}

// failure returns why nothing is known of the pod; "" where something is.
func (one answer) failure() string {
	if one.Error == "" && one.Verdict != nil && (one.Verdict.Result == status.Failed || one.ended()) {
		return one.Verdict.Detail
	}
	return one.Error
}

// ended reports whether the sandbox has ended meanwhile, of which the daemon hears with its next audit.
func (one answer) ended() bool { return one.Verdict != nil && one.Verdict.Result == status.Gone }

// end prints what is left to print, and says how the command ends.
func (a *answers) end() error {
	if a.json {
		document := struct {
			Pods []answer `json:"pods"`
		}{append([]answer{}, a.all...)}
		if err := printDocument(a.out, document); err != nil {
			return err
		}
	} else if len(a.all) == 0 {
		if _, err := fmt.Fprintln(a.out, "no pod of the mesh runs on this node"); err != nil {
			return err
		}
	}
	var failures []string
	for _, one := range a.all {
		if why := one.failure(); why != "" {
			failures = append(failures, fmt.Sprintf("%s/%s: %s", one.Namespace, one.Name, status.Plain(why)))
		}
	}
	switch {
	case len(failures) > 0:
		return &exit{exitFailed, errors.New(strings.Join(failures, "\nmeshnetd: "))}
	case a.different > 0:
		return &exit{exitDifference, fmt.Errorf("%d differences", a.different)}
	}
	return nil
}
