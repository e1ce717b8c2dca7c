// SPDX-License-Identifier: Apache-2.0

// Package draw makes a picture of a plan: where packets enter, the chains that they meet, the proxy's listeners, and what
// goes around them. It is pure, as all of rules.
package draw

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Picture is what is to be drawn.
type Picture struct {
	Title  string
	Lines  []string // below the title
	Plan   rules.Plan
	Around []string    // what does not go through the proxy, as sentences
	Way    *rules.Path // the way of one packet, which is lit up; nil is none
}

// kind is what an edge leads to.
type kind string

const (
	onward kind = "onward" // the next chain or table
	proxy  kind = "proxy"  // a listener of the proxy
	around kind = "around" // past the proxy
	lost   kind = "lost"   // dropped or reset
)

// box is a chain, or a place where packets come from or end.
type box struct {
	id, title string
	column    int
	rows      []row
	kind      kind // of a place where packets end
	lit       bool
	after     string // the box below it, in which a packet goes on that leaves this one
}

// row is a rule, or the end of a chain.
type row struct {
	text, target, why string
	to                string // the box that its packets go to; "" is the next row
	kind              kind
	lit               bool
}

// sheet is the drawing of one family.
type sheet struct {
	title string
	boxes []*box
}

// sheets returns what is to be drawn, a sheet for each family that has rules.
func (p Picture) sheets() []sheet {
	var all []sheet
	for _, set := range p.Plan.Rulesets() {
		if set.Empty() || p.Way != nil && p.Way.Packet.Family() != set.Family {
			continue
		}
		g := graph{set: set, routes: p.Plan.Routes, way: p.Way, boxes: map[string]*box{}}
		all = append(all, sheet{title: map[rules.Family]string{rules.IPv4: "IPv4", rules.IPv6: "IPv6"}[set.Family], boxes: g.draw()})
	}
	return all
}

// graph makes the boxes of a family.
type graph struct {
	set    rules.Ruleset
	routes []rules.PolicyRoute
	way    *rules.Path
	boxes  map[string]*box
	order  []*box
}

// hooks are the built-in chains that a packet can enter by, with who sends it.
var hooks = []struct{ chain, from string }{{"OUTPUT", "a process of the pod sends"}, {"PREROUTING", "a peer sends"},
	{"INPUT", "delivered to the pod"}, {"FORWARD", "forwarded by the pod"}, {"POSTROUTING", "leaves the pod"}}

// tables are in the order in which a hook asks them.
var tables = []string{"raw", "mangle", "nat", "filter"}

func (g *graph) draw() []*box {
	for _, h := range hooks {
		from := &box{id: "from " + h.chain, title: h.from}
		previous := from
		for _, name := range tables {
			chain, there := g.set.Table(name).Chain(h.chain)
			if !there || len(chain.Rules) == 0 {
				continue
			}
			if previous == from {
				g.add(from)
			}
			b := g.chain(name, chain, 0)
			previous.after, previous = b.id, b
		}
	}
	g.light()
	last := 0
	for _, b := range g.order {
		last = max(last, b.column)
	}
	for _, b := range g.order {
		if b.kind != "" {
			b.column = last + 1
		}
	}
	return g.order
}

func (g *graph) add(b *box) *box {
	g.boxes[b.id] = b
	g.order = append(g.order, b)
	return b
}

// chain adds a chain and those it jumps to; one that is there already moves to the right where it has to.
func (g *graph) chain(table string, chain rules.Chain, column int) *box {
	id := table + " " + chain.Name
	if b := g.boxes[id]; b != nil {
		if column > b.column && column <= len(g.set.Table(table).Chains)+1 { // the kernel has no loops
			b.column = column
			for _, r := range chain.Rules {
				g.jump(table, r, column)
			}
		}
		return b
	}
	b := g.add(&box{id: id, title: id, column: column})
	for i, r := range chain.Rules {
		match, target, _ := strings.Cut(" "+r.String(), " -j ")
		line := row{text: strings.TrimSpace(strconv.Itoa(i+1) + match), target: target, why: r.Why, kind: onward}
		if to := g.jump(table, r, column); to != nil {
			line.to = to.id
		} else if end := g.end(table, chain.Name, r); end != nil {
			line.to, line.kind = end.id, end.kind
		}
		b.rows = append(b.rows, line)
	}
	if end := g.leave(table, chain.Name, 0); end != nil {
		b.rows = append(b.rows, row{text: "else", why: "no rule of the chain has ended it", to: end.id, kind: end.kind})
	}
	return b
}

// jump returns the chain that a rule jumps to, or nil.
func (g *graph) jump(table string, r rules.Rule, column int) *box {
	name, jumps := r.Target.(rules.Jump)
	if !jumps {
		return nil
	}
	chain, _ := g.set.Table(table).Chain(string(name))
	return g.chain(table, chain, column+1)
}

// end returns where the packets that a rule matches end; nil where they go on.
func (g *graph) end(table, chain string, r rules.Rule) *box {
	switch target := r.Target.(type) {
	case rules.Redirect:
		return g.place("port "+strconv.Itoa(int(target.Port)), r.Why, proxy)
	case rules.TProxy:
		return g.place("port "+strconv.Itoa(int(target.Port)), r.Why, proxy)
	case rules.DNAT:
		return g.place(cmp.Or(target.To.String(), "?"), r.Why, proxy)
	case rules.RejectWith:
		answer := "answered with a TCP reset"
		if target == rules.RejectPort {
			answer = "ICMP says that nobody listens"
		}
		return g.place("refused", answer, lost)
	case rules.Verdict:
		switch target {
		case rules.Drop:
			return g.place("dropped", "without an answer", lost)
		case rules.Accept:
			if g.kept(table, chain) {
				return g.place("the connection's socket", "a mark keeps it in the pod", proxy)
			}
			if g.past(table, chain) {
				return g.unredirected()
			}
		case rules.Return:
			return g.leave(table, chain, 0)
		}
	}
	return nil
}

// kept reports whether a chain sets a mark by which what it accepts is routed to the pod itself.
func (g *graph) kept(table, chain string) bool {
	c, _ := g.set.Table(table).Chain(chain)
	return slices.ContainsFunc(c.Rules, func(r rules.Rule) bool {
		mark, sets := r.Target.(rules.SetMark)
		return sets && slices.ContainsFunc(g.routes, func(route rules.PolicyRoute) bool {
			return route.Family == g.set.Family && route.Mark == uint32(mark)
		})
	})
}

// place is where packets end.
func (g *graph) place(title, why string, k kind) *box {
	if b := g.boxes["end "+title]; b != nil {
		return b
	}
	return g.add(&box{id: "end " + title, title: title, kind: k, rows: []row{{text: why}}})
}

func (g *graph) unredirected() *box {
	return g.place("not redirected", "goes on as it was sent", around)
}

// leave returns where packets end that come out of a chain without a verdict; nil where they go on in the chain that jumped
// there, or in another table.
func (g *graph) leave(table, chain string, depth int) *box {
	t := g.set.Table(table)
	if c, _ := t.Chain(chain); c.Builtin {
		if t.Captures(chain) { // the packets have gone around the proxy
			return g.unredirected()
		}
		return nil
	}
	if depth > len(t.Chains) {
		return nil
	}
	var end *box
	callers := 0
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			if r.Target != rules.Jump(chain) {
				continue
			}
			if callers++; callers > 1 || i < len(c.Rules)-1 {
				return nil
			}
			end = g.leave(table, c.Name, depth+1)
		}
	}
	return end
}

// past reports whether what is accepted in a chain goes around the proxy at one of the hooks that lead there.
func (g *graph) past(table, chain string) bool {
	t := g.set.Table(table)
	return slices.ContainsFunc(t.Chains, func(c rules.Chain) bool {
		return c.Builtin && t.Captures(c.Name) && g.leads(table, c, chain, 0)
	})
}

func (g *graph) leads(table string, from rules.Chain, chain string, depth int) bool {
	t := g.set.Table(table)
	return from.Name == chain || depth <= len(t.Chains) && slices.ContainsFunc(from.Rules, func(r rules.Rule) bool {
		name, jumps := r.Target.(rules.Jump)
		next, _ := t.Chain(string(name))
		return jumps && g.leads(table, next, chain, depth+1)
	})
}

// light marks what a packet met.
func (g *graph) light() {
	if g.way == nil {
		return
	}
	hook := "OUTPUT"
	if g.way.Packet.Direction == rules.Inbound {
		hook = "PREROUTING"
	}
	at := g.boxes["from "+hook]
	for at != nil {
		at.lit = true
		at = g.boxes[at.after]
	}
	last := g.boxes["nat "+hook] // the chain that the packet leaves without a verdict
	for _, s := range g.way.Steps {
		b := g.boxes[s.Table+" "+s.Chain]
		if b == nil || s.Index > len(b.rows) {
			continue
		}
		last = b
		b.lit, b.rows[s.Index-1].lit = true, true
		if to := g.boxes[b.rows[s.Index-1].to]; to != nil {
			to.lit = true
			if to.kind == "" { // a chain: it is left where none of its rules follows
				last = to
			}
		}
	}
	end := g.boxes["end not redirected"]
	if k := g.way.End.Kind; end == nil || k != rules.Delivered && k != rules.Leaves {
		return
	}
	if n := len(last.rows); !end.lit && last.rows[n-1].to == end.id {
		last.rows[n-1].lit = true
	}
	end.lit = true
}
