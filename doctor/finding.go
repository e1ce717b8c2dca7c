// SPDX-License-Identifier: Apache-2.0

// Package doctor judges a node: whether meshnetd can keep its promise there, and what to do where it cannot. It looks
// at nothing itself: package gather does, and gives it Facts.
package doctor

import (
	"cmp"
	"fmt"
	"slices"
)

// Level says how bad a finding is.
type Level string

// The levels, from good to bad.
const (
	OK      Level = "ok"
	Info    Level = "info"    // good to know; nothing has to be done
	Unseen  Level = "unseen"  // it cannot be told from within meshnetd's container
	Warning Level = "warning" // it works, and some part of the promise is not kept or could not be looked at
	Broken  Level = "broken"  // meshnetd does not work like this
)

var levels = []Level{OK, Info, Unseen, Warning, Broken}

// Finding is what one check says.
type Finding struct {
	Group  string `json:"group"` // what it is about: "runtime", "gate", "kernel", "node", "meshnetd"
	Check  string `json:"check"` // names the check, and does not change between versions
	Level  Level  `json:"level"`
	Found  string `json:"found"`            // a sentence: what is there
	Do     string `json:"do,omitempty"`     // what to do about it; lines of a file are lines here
	Source string `json:"source,omitempty"` // the file, socket or command that says so
}

func ok(check, source, found string, args ...any) Finding {
	return Finding{Check: check, Level: OK, Source: source, Found: fmt.Sprintf(found, args...)}
}

func info(check, source, found string, args ...any) Finding {
	return Finding{Check: check, Level: Info, Source: source, Found: fmt.Sprintf(found, args...)}
}

func unseen(check, source, what string) Finding {
	return Finding{Check: check, Level: Unseen, Source: source, Found: what + " is not seen from meshnetd's container."}.do("Run meshnetd doctor on the node.")
}

func warning(check, source, found string, args ...any) Finding {
	return Finding{Check: check, Level: Warning, Source: source, Found: fmt.Sprintf(found, args...)}
}

func broken(check, source, found string, args ...any) Finding {
	return Finding{Check: check, Level: Broken, Source: source, Found: fmt.Sprintf(found, args...)}
}

func (f Finding) do(what string, args ...any) Finding {
	f.Do = fmt.Sprintf(what, args...)
	return f
}

// Report is everything that was found, by group, in the order in which to repair a node.
type Report struct {
	Schema   int           `json:"schema"` // of this report; fields are added without a new one
	Version  string        `json:"version"`
	Level    Level         `json:"level"` // the worst one
	Counts   map[Level]int `json:"counts"`
	Findings []Finding     `json:"findings"`
}

// Schema is the version of the report as JSON.
const Schema = 1

// judges are the checks, by group.
var judges = []struct {
	group  string
	checks []func(Facts) []Finding
}{
	{"runtime", []func(Facts) []Finding{judgeRuntime, judgeVersion, judgeSettings, judgeNRI, judgeSocket, judgeTimeouts, judgePlugins}},
	{"gate", []func(Facts) []Finding{judgeValidator, judgeRequired, judgeNamespaces, judgeTolerance, judgeCanary}},
	{"kernel", []func(Facts) []Finding{judgeKernel, judgeBackends, judgeModules, judgeIPTables, judgeLegacy}},
	{"node", []func(Facts) []Finding{judgeHostNamespace, judgePropagation, judgeCNI, judgeMultus, judgeCNIPrograms, judgeDaemons}},
	{"meshnetd", []func(Facts) []Finding{judgeConfig, judgeLockdowns, judgeRoot, judgeDaemon, judgeSession, judgeKubelet, judgeSkew, judgeCapabilities, judgeSandboxing, judgeView}},
}

// Judge says what the facts mean.
func Judge(f Facts) Report {
	r := Report{Schema: Schema, Version: f.Program, Level: OK, Counts: map[Level]int{}, Findings: []Finding{}}
	for _, level := range levels {
		r.Counts[level] = 0
	}
	for _, j := range judges {
		for _, check := range j.checks {
			for _, finding := range check(f) {
				finding.Group = j.group
				r.Findings = append(r.Findings, finding)
				r.Counts[finding.Level]++
				r.Level = worse(r.Level, finding.Level)
			}
		}
	}
	return r
}

func worse(a, b Level) Level {
	if cmp.Compare(slices.Index(levels, a), slices.Index(levels, b)) < 0 {
		return b
	}
	return a
}

// Exit is the exit code of the command: 0, 1 where there are warnings, 2 where something is broken.
func (r Report) Exit() int {
	switch r.Level {
	case Warning:
		return 1
	case Broken:
		return 2
	case OK, Info, Unseen:
	}
	return 0
}
