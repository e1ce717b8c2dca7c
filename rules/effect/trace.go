// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Trace walks a packet through a plan in a pod that has these interfaces (lo needs no mention), and tells what becomes of
// it. It assumes that the listeners are there, and that chains of others let pass what the plan does not stop. A rule of
// somebody else on the way, a rule that the kernel would refuse where it stands, and a packet that cannot exist are errors:
// nothing is guessed.
func Trace(plan rules.Plan, packet rules.Packet, interfaces []rules.Interface) (rules.Path, error) {
	return NewTracer(plan, interfaces).Trace(packet)
}

// Tracer traces many packets through one plan. It is not for concurrent use.
type Tracer struct {
	plan       rules.Plan
	interfaces []rules.Interface
	pod        *Pod
	sides      map[rules.Family]*Side // of the families that were asked about
	memo
	way way
	one single
}

// NewTracer returns a tracer of packets in a pod with these interfaces.
func NewTracer(plan rules.Plan, interfaces []rules.Interface) *Tracer {
	return &Tracer{plan: plan, interfaces: slices.Clip(interfaces), memo: newMemo()}
}

// Trace is the function of that name.
func (t *Tracer) Trace(packet rules.Packet) (rules.Path, error) {
	t.way = way{path: rules.Path{Packet: packet, Steps: make([]rules.Step, 0, 8)}}
	err := t.walk(packet)
	return t.way.path, err
}

// End returns where the way of a packet ends, in a fraction of the time.
func (t *Tracer) End(packet rules.Packet) (rules.End, error) {
	t.way = way{path: rules.Path{Packet: packet}}
	err := t.walk(packet)
	return t.way.path.End, err
}

func (t *Tracer) walk(packet rules.Packet) error {
	y := &t.way
	if packet.State == 0 {
		packet.State = rules.StateNew
	}
	if err := packet.Check(); err != nil {
		return fmt.Errorf("trace %s: %w", packet, err)
	}
	y.path.Packet = packet
	w := walker{side: t.knowing(packet), pod: t.pod, way: y, memo: &t.memo}
	t.work = 0
	f := t.one.of(t.pod, packet)
	switch {
	case packet.Direction == rules.Inbound:
		w.inbound(only(f))
	case packet.Out == "" && !w.side.local.has(f.value(f.dst)) && !w.side.marks.has(f.value(f.mark)):
		y.wayless(packet.Destination.Addr())
	default:
		w.outbound(only(f))
	}
	if y.err != nil {
		t.free = nil // the flow of t.one may be among them
		return fmt.Errorf("trace %s: %w", packet, y.err)
	}
	return nil
}

// knowing returns the rules that the packet may meet. A condition on interfaces whose names begin alike knows those of the pod
// and of the packet.
func (t *Tracer) knowing(packet rules.Packet) *Side {
	for _, name := range []string{packet.In, packet.Out} {
		if name != "" && !slices.ContainsFunc(t.interfaces, func(i rules.Interface) bool { return i.Name == name }) {
			t.interfaces, t.pod = append(t.interfaces, rules.Interface{Name: name}), nil
		}
	}
	return t.side(packet.Family())
}

// side returns the rules of a family, compiled as they are written.
func (t *Tracer) side(family rules.Family) *Side {
	if t.pod == nil {
		t.pod, t.sides = NewPod(t.interfaces), map[rules.Family]*Side{}
	}
	if t.sides[family] == nil {
		side := NewSide(t.pod, family, t.plan.Routes, t.plan.Loopback)
		side.place(t.pod.bases(ruleset(t.plan, family), true))
		t.sides[family] = side
	}
	return t.sides[family]
}

// single is the flow of a single packet.
type single struct {
	flow
	box   [1]box
	sets  [fields]values
	spans [fields]Span
}

// only returns a packet as all of its kind.
func (p *Pod) only(packet rules.Packet) *packets {
	f := new(single).of(p, packet)
	return &packets{f.state, f.boxes[0]}
}

func (s *single) of(p *Pod, packet rules.Packet) *flow {
	protocol, named := protocols[packet.Protocol]
	if !named {
		protocol = unnamed
	}
	v := [fields]Number{Protocol: N(protocol),
		Source: Address(packet.Source.Addr()), SourcePort: N(uint64(packet.Source.Port())),
		Destination: Address(packet.Destination.Addr()), DestinationPort: N(uint64(packet.Destination.Port())), Out: N(p.number(packet.Out)),
		Mark: N(uint64(packet.Mark)), ConnMark: N(uint64(packet.ConnMark)), CTState: N(uint64(packet.State)), Listening: N(1)}
	s.flow = flow{state: entering, boxes: s.box[:], joined: true}
	if s.inbound = packet.Direction == rules.Inbound; s.inbound {
		v[In] = N(p.number(packet.In))
	}
	if s.socket, s.owned = packet.Socket, packet.Socket; packet.Socket {
		v[UID], v[GID] = N(uint64(packet.UID)), N(uint64(packet.GID))
	}
	if packet.Transparent {
		v[Transparent] = N(1)
	}
	for x := range v {
		s.spans[x] = Span{v[x], v[x]}
		s.sets[x].spans = s.spans[x : x+1]
		s.box[0][x] = Set{&s.sets[x]}
	}
	return &s.flow
}

// value returns what the packet has.
func (f *flow) value(r ref) Number { return f.boxes[0].value(r) }

func (f *flow) to(six bool) netip.AddrPort { return (&packets{f.state, f.boxes[0]}).to(six) }

// way is what the only packet of a walk has met. A walk of many packets has none: nil, which notes nothing.
type way struct {
	path rules.Path // where steps are wanted, there is room for them
	err  error
}

func (y *way) failed() bool { return y != nil && y.err != nil }

func (y *way) fail(s *rules.Step, format string, args ...any) {
	if y.err == nil {
		y.err = fmt.Errorf("table %s, chain %s, rule %d, %s: %s", s.Table, s.Chain, s.Index, s.Rule, fmt.Sprintf(format, args...))
	}
}

func (y *way) wayless(to netip.Addr) {
	y.err = fmt.Errorf("no interface leads to %s: name one, or give the pod that address", to)
}

// note says what the kernel does of its own.
func (y *way) note(format string, args ...any) {
	if y != nil && y.path.Steps != nil && y.err == nil {
		y.path.Steps = append(y.path.Steps, rules.Step{Note: fmt.Sprintf(format, args...)})
	}
}

// asks refuses a rule that asks for an owner where packets have none (the hooks of net/netfilter/xt_owner.c).
func (y *way) asks(r *Rule, hook Hook) {
	if y == nil || hook == Output || hook == Postrouting {
		return
	}
	if slices.ContainsFunc(r.Conditions, func(c Condition) bool { return c.Field == UID || c.Field == GID }) {
		y.fail(r.step, "the kernel refuses an owner at %s", chainNames[hook])
	}
}

// meets notes that the packet matches a rule, and returns the number of that step.
func (y *way) meets(r *Rule, f *flow, hook Hook, depth int) int {
	if y == nil || y.err != nil {
		return -1
	}
	if why := misplaced(r, y.path.Packet, hook, depth); why != "" {
		y.fail(r.step, "%s", why)
	}
	if y.path.Steps == nil {
		return -1
	}
	s := *r.step
	if _, zone := s.Rule.Target.(rules.CTZone); zone && !f.trackable() {
		s.Note = "the zone is chosen already"
	}
	y.path.Steps = append(y.path.Steps, s)
	return len(y.path.Steps) - 1
}

// misplaced says why the kernel would not have a rule where it stands (table and hooks in the registrations of
// net/netfilter/xt_*.c), or why nobody knows what it does.
func misplaced(r *Rule, packet rules.Packet, hook Hook, depth int) string {
	s, fits := r.step, true
	switch target := s.Rule.Target.(type) {
	case rules.Foreign:
		return "a rule of somebody else decides here: it cannot be known how"
	case rules.Jump:
		switch {
		case r.Actions[0].Chain == nil:
			return fmt.Sprintf("table %s has no chain %s", s.Table, target)
		case depth >= deepest:
			return fmt.Sprintf("table %s: the jumps to chain %s are a loop, or too deep for the kernel", s.Table, target)
		}
	case rules.DNAT:
		if fits = s.Table == "nat" && (hook == Prerouting || hook == Output); rules.FamilyOf(target.To) != packet.Family() {
			return fmt.Sprintf("the kernel refuses %s, which is of the other family", target.To)
		}
	case rules.Redirect:
		fits = s.Table == "nat" && (hook == Prerouting || hook == Output)
	case rules.TProxy:
		fits = s.Table == "mangle" && hook == Prerouting
	case rules.CTZone:
		fits = s.Table == "raw"
	case rules.RejectWith:
		switch fits = s.Table == "filter"; {
		case target == rules.RejectReset && packet.Protocol != rules.TCP:
			return "the kernel refuses a TCP reset for " + packet.Protocol
		case target == rules.RejectPort && packet.Family() != rules.IPv6, target == rules.RejectPort4 && packet.Family() != rules.IPv4:
			return "the kernel refuses an answer of the other family's ICMP"
		}
	}
	switch {
	case !fits:
		return fmt.Sprintf("the kernel refuses this target in table %s at %s", s.Table, chainNames[hook])
	case r.Actions[0].Verb == Unknown:
		return fmt.Sprintf("the tracer does not know target %T %v", s.Rule.Target, s.Rule.Target)
	}
	return ""
}

// came notes what a rule made of the packet.
func (y *way) came(step int, f *flow) {
	if step < 0 {
		return
	}
	s := &y.path.Steps[step]
	switch target := s.Rule.Target.(type) {
	case rules.Redirect, rules.DNAT:
		if s.Note = "to " + f.to(y.path.Packet.Family() == rules.IPv6).String(); f.kind == rules.Dropped {
			s.Note = "interface " + y.path.Packet.In + " has no address to redirect to"
		}
	case rules.Counting:
		s.Note = "counted"
	case rules.SetConnMark, rules.SaveMark:
		s.Note = fmt.Sprintf("the connection's mark is %#x", f.value(f.connMark).lo)
	case rules.RestoreMark:
		s.Note = fmt.Sprintf("mark %#x", f.value(f.mark).lo)
	case rules.TProxy:
		if s.Note = fmt.Sprintf("mark %#x", target.Mark); f.kind == rules.Dropped {
			s.Note = "the connection's own socket is not transparent"
		}
	}
}

// ends notes what becomes of the packet.
func (y *way) ends(f *flow, k rules.EndKind) {
	if y == nil || y.err != nil {
		return
	}
	e := rules.End{Kind: k, To: f.to(y.path.Packet.Family() == rules.IPv6), Original: y.path.Packet.Destination, Zone: f.zone, ConnMark: uint32(f.value(f.connMark).lo)}
	if !f.dst.isGiven() { // it has its zone
		e.To = netip.AddrPortFrom(e.Original.Addr(), e.To.Port())
	}
	switch k {
	case rules.TProxied:
		e.Port = f.listener
	case rules.Redirected, rules.Delivered:
		e.Port = e.To.Port()
	case rules.Leaves:
		if e.Interface = y.path.Packet.Out; e.Interface == "" && !f.inbound {
			y.wayless(e.To.Addr())
			return
		}
	case rules.Dropped, rules.Refused:
	}
	y.path.End = e
}
