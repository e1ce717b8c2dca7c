// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Promised reports whether nothing may go around the mesh in this row.
func (r Result) Promised() bool {
	heeded := !r.Row.AtStart || !r.Runtime.IsCRIO()
	return !r.Row.Outside && !r.Row.Hole && heeded && (r.Runtime.Validates() || r.Row.Everywhere)
}

// Problems returns what is not as it has to be.
func (r Result) Problems() []string {
	var problems []string
	if r.Err != nil {
		problems = append(problems, r.Err.Error())
	}
	if r.Promised() && r.Around+r.Thrown+r.Accepted > 0 {
		problems = append(problems, fmt.Sprintf("%d packets went around the mesh, and %d datagrams; the server accepted %d connections", r.Around, r.Thrown, r.Accepted))
	}
	if r.Row.Outside && (r.Around == 0 || r.Thrown == 0 || r.Accepted == 0) {
		problems = append(problems, fmt.Sprintf("the capture saw %d packets and %d datagrams, and the server %d connections of a pod outside the mesh: neither may be blind", r.Around, r.Thrown, r.Accepted))
	}
	if !r.Row.Outside && r.Proxied == 0 {
		problems = append(problems, "no connection came to the proxy with its original destination")
	}
	if strings.Contains(r.Log, "DATA RACE") {
		problems = append(problems, "a data race in meshnetd")
	}
	return problems
}

// Print writes results as two Markdown tables, a row for each fault and a row for each attack.
func Print(out io.Writer, results []Result) {
	attack := func(r Result) bool { return r.Row.Attacker }
	accidents := slices.DeleteFunc(slices.Clone(results), attack)
	attacks := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return !attack(r) })
	if len(accidents) > 0 {
		printTable(out, "fault", accidents)
	}
	if len(attacks) > 0 {
		fmt.Fprintln(out)
		printTable(out, "attack", attacks)
	}
}

func printTable(out io.Writer, what string, results []Result) {
	var runtimes []lab.Runtime
	var faults []string
	for _, r := range results {
		if !slices.Contains(runtimes, r.Runtime) {
			runtimes = append(runtimes, r.Runtime)
		}
		if !slices.Contains(faults, r.Row.Fault) {
			faults = append(faults, r.Row.Fault)
		}
	}
	head, rule := "| "+what+" |", "|---|"
	for _, v := range runtimes {
		head += fmt.Sprintf(" %s: the kubelet saw | around the mesh | by the proxy |", v)
		rule += "---|--:|--:|"
	}
	fmt.Fprintln(out, head)
	fmt.Fprintln(out, rule)
	for _, fault := range faults {
		fmt.Fprintf(out, "| %s |", fault)
		for _, v := range runtimes {
			i := slices.IndexFunc(results, func(r Result) bool { return r.Runtime == v && r.Row.Fault == fault })
			if i < 0 {
				fmt.Fprint(out, " cannot happen | - | - |")
				continue
			}
			fmt.Fprint(out, results[i].cells())
		}
		fmt.Fprintln(out)
	}
}

func (r Result) cells() string {
	around := fmt.Sprint(r.Around)
	if r.Thrown > 0 {
		around += fmt.Sprintf(" and %d by UDP", r.Thrown)
	}
	switch {
	case r.Row.Outside:
		around += " (not meshed)"
	case r.Row.Hole:
		around += " (known hole)"
	case !r.Promised():
		around += " (best effort)"
	}
	saw := r.Saw
	if r.Err != nil {
		saw += "; the row failed"
	}
	return fmt.Sprintf(" %s | %s | %d |", saw, around, r.Proxied)
}
