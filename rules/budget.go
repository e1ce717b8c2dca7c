// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Budget is how much a pod may ask for. It is counted before anything is read, so that a pod that asks for more costs
// nobody anything. A field that is 0 is that of StandardBudget.
type Budget struct {
	Bytes int // of everything that decides: annotations that the mesh reads, and what it reads of its own containers
	Items int // in the lists among that
	Rules int // of the plan, both families together
}

// StandardBudget is what an empty configuration allows.
func StandardBudget() Budget { return Budget{Bytes: 16 << 10, Items: 256, Rules: 400} }

func (b Budget) orStandard() Budget {
	standard := StandardBudget()
	return Budget{cmp.Or(b.Bytes, standard.Bytes), cmp.Or(b.Items, standard.Items), cmp.Or(b.Rules, standard.Rules)}
}

// Input is the size of something that a pod says about itself and that its mesh would read.
type Input struct {
	Kind, Name string // such as "annotation" and its key
	Bytes      int
	Items      int
	Cut        bool // more was said than is kept
}

// TextInput measures a value that is not a list.
func TextInput(kind, name, value string) Input {
	return Input{Kind: kind, Name: name, Bytes: len(value)}
}

// ListInput measures a comma-separated list. A comma within an item makes it count as two, which errs on the safe side.
func ListInput(kind, name, value string) Input {
	in := TextInput(kind, name, value)
	if value != "" {
		in.Items = 1 + strings.Count(value, ",")
	}
	return in
}

// ArgumentsInput measures a container's arguments, each with its place, and what else it said that was too much to be kept.
func ArgumentsInput(kind string, c Container) Input {
	in := Input{Kind: kind, Name: "arguments", Bytes: c.Said + bytesOfWord*len(c.Args), Cut: c.Said > 0}
	for _, arg := range c.Args {
		in.Bytes += len(arg)
	}
	return in
}

// Exceeded says what is over the budget, "" where nothing is.
func (b Budget) Exceeded(inputs ...Input) (problem string) {
	b = b.orStandard()
	bytes, items := 0, 0
	for _, in := range inputs {
		bytes, items = bytes+in.Bytes, items+in.Items
		if bytes > b.Bytes {
			return in.over("bytes", in.Bytes, bytes, b.Bytes)
		}
		if in.Cut { // by another configuration, which allowed less
			return fmt.Sprintf("%s %s has %d bytes: more than was allowed a pod when it was read (budget.bytes); a restart of meshnetd reads it again", in.Kind, in.Name, in.Bytes)
		}
		if items > b.Items {
			return in.over("items", in.Items, items, b.Items)
		}
	}
	return ""
}

func (in Input) over(what string, own, sum, most int) string {
	text := fmt.Sprintf("%s %s has %d %s", in.Kind, in.Name, own, what)
	if sum > own {
		text += fmt.Sprintf(", %d with what else decides about the pod", sum)
	}
	return text + fmt.Sprintf(": more than the %d that the node's configuration allows a pod (budget.%s)", most, what)
}

// networks are those in which a pod's number of rules can differ: with addresses of both families, and with IPv6 only,
// which some proxies speak only then.
var networks = [...]Network{
	{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: 1})}},
	{Addresses: []netip.Addr{netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: 1})}},
}

// anywhere returns the plans of an enrolled pod in each of networks, or why it has none there. They can be made just to be
// counted, since only a few rules follow from each item.
func (d Decision) anywhere() (plans [len(networks)]Plan, errs [len(networks)]error) {
	for i, network := range networks {
		if plans[i], errs[i] = d.Planner(network); errs[i] != nil {
			plans[i] = Plan{}
		}
	}
	return plans, errs
}

// exceededBy says whether one of the plans is over the budget.
func (b Budget) exceededBy(plans []Plan) (problem string) {
	most := b.orStandard().Rules
	for _, plan := range plans {
		if n := plan.Rules(); n > most {
			return fmt.Sprintf("what the pod asks for takes %d rules: more than the %d that the node's configuration allows a pod (budget.rules)", n, most)
		}
	}
	return ""
}
