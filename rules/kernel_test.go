// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// kernel stands in for one family of one namespace. It takes text the way `iptables-restore --noflush`
// does and is stricter where that would only be found out later.
type kernel struct {
	family rules.Family
	tables map[string]*table
}

type table struct {
	order  []string // own chains, in the order they were made
	chains map[string][]string
}

var builtin = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"raw":    {"PREROUTING", "OUTPUT"},
}

func newKernel(family rules.Family) *kernel {
	return &kernel{family: family, tables: map[string]*table{}}
}

func (k *kernel) table(name string) *table {
	if k.tables[name] == nil {
		t := &table{chains: map[string][]string{}}
		for _, chain := range builtin[name] {
			t.chains[chain] = nil
		}
		k.tables[name] = t
	}
	return k.tables[name]
}

// restore runs the text, a table at a time: what fails before COMMIT leaves the table as it was.
func (k *kernel) restore(text string) error {
	var name string
	var work *table
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fail := func(problem string) error { return fmt.Errorf("restore line %d: %s: %q", n+1, problem, line) }
		switch {
		case text == "":
		case strings.HasPrefix(line, "*"):
			if work != nil || builtin[line[1:]] == nil {
				return fail("no such table here")
			}
			name = line[1:]
			work = k.table(name).clone()
		case work == nil:
			return fail("outside a table")
		case line == "COMMIT":
			k.tables[name], work = work, nil
		default:
			if problem := work.run(line, builtin[name]); problem != "" {
				return fail(problem)
			}
		}
	}
	if work != nil {
		return fmt.Errorf("restore: no COMMIT for %s", name)
	}
	return nil
}

// clone returns a namespace of its own that holds the same.
func (k *kernel) clone() *kernel {
	c := newKernel(k.family)
	for name, t := range k.tables {
		c.tables[name] = t.clone()
	}
	return c
}

func (t *table) clone() *table {
	c := &table{order: slices.Clone(t.order), chains: map[string][]string{}}
	for name, lines := range t.chains {
		c.chains[name] = slices.Clone(lines)
	}
	return c
}

func (t *table) run(line string, builtin []string) (problem string) {
	command, rest, _ := strings.Cut(line, " ")
	chain, rest, _ := strings.Cut(rest, " ")
	if name, ok := strings.CutPrefix(command, ":"); ok {
		if slices.Contains(builtin, name) || chain != "-" {
			return "a policy is nobody's business"
		}
		if _, ok := t.chains[name]; !ok {
			t.order = append(t.order, name)
		}
		t.chains[name] = nil
		return ""
	}
	lines, ok := t.chains[chain]
	if !ok {
		return "no such chain"
	}
	switch command {
	case "-A":
		t.chains[chain] = append(lines, rest)
		return t.missingTarget(rest)
	case "-I":
		number, rest, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > len(lines)+1 {
			return "index of insertion too big"
		}
		t.chains[chain] = slices.Insert(lines, n-1, rest)
		return t.missingTarget(rest)
	case "-D":
		n, err := strconv.Atoi(rest)
		if err != nil || n < 1 || n > len(lines) {
			return "index of deletion too big"
		}
		t.chains[chain] = slices.Delete(lines, n-1, n)
	case "-X":
		if slices.Contains(builtin, chain) || len(lines) > 0 {
			return "chain cannot be deleted"
		}
		for _, others := range t.chains {
			if slices.ContainsFunc(others, func(r string) bool { return targetOf(r) == chain }) {
				return "chain is referenced"
			}
		}
		delete(t.chains, chain)
		t.order = slices.DeleteFunc(t.order, func(name string) bool { return name == chain })
	default:
		return "unknown command"
	}
	return ""
}

func targetOf(rule string) string {
	words := strings.Fields(rule)
	if i := slices.Index(words, "-j"); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

var targets = []string{"RETURN", "ACCEPT", "DROP", "REDIRECT", "TPROXY", "MARK", "CONNMARK", "CT", "REJECT", "LOG", "DNAT", "MASQUERADE"}

func (t *table) missingTarget(rule string) (problem string) {
	target := targetOf(rule)
	if _, ok := t.chains[target]; !ok && !slices.Contains(targets, target) {
		return "no chain or target " + target
	}
	return ""
}

// save prints like iptables-save.
func (k *kernel) save() string {
	var out strings.Builder
	for _, name := range []string{"raw", "mangle", "nat", "filter"} {
		t := k.tables[name]
		if t == nil {
			continue
		}
		fmt.Fprintf(&out, "*%s\n", name)
		for _, chain := range builtin[name] {
			fmt.Fprintf(&out, ":%s ACCEPT [0:0]\n", chain)
		}
		for _, chain := range t.order {
			fmt.Fprintf(&out, ":%s - [0:0]\n", chain)
		}
		for _, chain := range slices.Concat(builtin[name], t.order) {
			for _, rule := range t.chains[chain] {
				fmt.Fprintf(&out, "-A %s %s\n", chain, rule)
			}
		}
		out.WriteString("COMMIT\n")
	}
	return out.String()
}

// state is the namespace as the program reads it.
func (k *kernel) state(t *testing.T) rules.Ruleset {
	t.Helper()
	return parseSave(t, k.family, k.save())
}

// apply changes the namespace to the wanted rules, as the program does, and returns the text of the change.
func (k *kernel) apply(t *testing.T, want rules.Ruleset, ours rules.Footprint) string {
	t.Helper()
	have := k.state(t)
	change := rules.Change(have, want, ours)
	diffs := rules.Diff(have, want, ours)
	if (change == "") != (len(diffs) == 0) {
		t.Errorf("Change and Diff disagree: %v\n%s", diffs, change)
	}
	if err := k.restore(change); err != nil {
		t.Fatalf("%v\nbefore:\n%s\nchange:\n%s", err, k.save(), change)
	}
	return change
}

// holds checks that the namespace holds the wanted rules and that a second change has nothing to do.
func (k *kernel) holds(t *testing.T, want rules.Ruleset, ours rules.Footprint) {
	t.Helper()
	have := k.state(t)
	diffs, again := rules.Diff(have, want, ours), rules.Change(have, want, ours)
	if len(diffs) > 0 || again != "" {
		t.Errorf("differences: %v\na second change:\n%s\nthe namespace holds:\n%s", diffs, again, k.save())
	}
}

// chain returns the rules of one chain.
func (k *kernel) chain(table, chain string) []string { return k.table(table).chains[chain] }

// lines returns every rule and every own chain, tables without any left out.
func (k *kernel) lines() []string {
	var lines []string
	for _, name := range []string{"raw", "mangle", "nat", "filter"} {
		t := k.table(name)
		for _, chain := range t.order {
			lines = append(lines, fmt.Sprintf("%s :%s", name, chain))
		}
		for _, chain := range slices.Concat(builtin[name], t.order) {
			for _, rule := range t.chains[chain] {
				lines = append(lines, fmt.Sprintf("%s %s %s", name, chain, rule))
			}
		}
	}
	return lines
}
