// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"io"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Scene is a pod in which a packet is traced.
type Scene struct {
	Pod        string // NAMESPACE/NAME
	Plan       rules.Plan
	Interfaces []rules.Interface
	Outside    string // why the pod has no rules; "" where it has
}

// Way is what became of a packet, for people and programs.
type Way struct {
	Pod     string   `json:"pod"`
	Packet  string   `json:"packet"`
	Assumed []string `json:"assumed"` // what was not named
	Notes   []string `json:"notes"`
	Steps   []step   `json:"steps"`
	End     end      `json:"end"`
}

// step is a rule that the packet met, or what the kernel did of its own.
type step struct {
	Table  string `json:"table,omitempty"`
	Chain  string `json:"chain,omitempty"`
	Number int    `json:"number,omitempty"` // of the rule in its chain, from 1
	Rule   string `json:"rule,omitempty"`
	Why    string `json:"why,omitempty"`
	Note   string `json:"note,omitempty"`
}

// end is where the packet ended.
type end struct {
	Kind      string `json:"kind"`
	Text      string `json:"text"`
	Port      uint16 `json:"port,omitempty"` // of the listener that has it
	To        string `json:"to"`
	Original  string `json:"original"` // the destination that the listener is told
	Interface string `json:"interface,omitempty"`
	Zone      uint16 `json:"zone,omitempty"`
	ConnMark  uint32 `json:"connmark,omitempty"`
}

func endOf(path rules.Path, text string) *end {
	e := path.End
	return &end{Kind: string(e.Kind), Text: text, Port: e.Port, To: e.To.String(), Original: e.Original.String(), Interface: e.Interface,
		Zone: e.Zone, ConnMark: e.ConnMark}
}

func (q Question) Answer(s Scene) (Way, error) {
	path, assumptions, err := q.Path(s.Plan, s.Interfaces)
	if err != nil {
		return Way{}, err
	}
	w := Way{Pod: s.Pod, Packet: path.Packet.String(), Assumed: append([]string{}, assumptions...), Notes: append([]string{}, s.about(path.Packet)...), Steps: []step{}}
	for _, met := range path.Steps {
		one := step{Table: met.Table, Chain: met.Chain, Number: met.Index, Note: met.Note}
		if met.Table != "" {
			one.Rule, one.Why = met.Rule.String(), met.Rule.Why
		}
		w.Steps = append(w.Steps, one)
	}
	w.End = *endOf(path, Ending(path))
	return w, nil
}

// Impossible is that no packet can be as it was asked for.
type Impossible struct{ error }

// Unwrap returns the cause.
func (i *Impossible) Unwrap() error { return i.error }

// Path traces the packet, and says what had to be assumed.
func (q Question) Path(plan rules.Plan, interfaces []rules.Interface) (path rules.Path, assumptions []string, err error) {
	packet, assumptions, err := q.packet(interfaces)
	if err != nil {
		return path, nil, err
	}
	_, interfaces, _ = q.by(interfaces) // which was read before
	if packet.Direction == rules.Inbound {
		interfaces = reached(interfaces, packet)
	}
	if path, err = effect.Trace(plan, packet, interfaces); err != nil {
		return path, nil, &Impossible{err}
	}
	return path, assumptions, nil
}

// about says what of the pod has to be known for this packet.
func (s Scene) about(p rules.Packet) []string {
	if s.Outside != "" {
		return []string{"the pod has no rules (" + s.Outside + ")"}
	}
	set, name := s.Plan.V4, "IPv4"
	if p.Family() == rules.IPv6 {
		set, name = s.Plan.V6, "IPv6"
	}
	if set.Empty() {
		return append([]string{"the pod has no rules for " + name + ": what it sends and gets by it goes around the proxy"}, s.Plan.Notes...)
	}
	return nil
}

// Ending says in words where a packet ended. Who the listener is says the rule that leads there.
func Ending(path rules.Path) string {
	e := path.End
	switch e.Kind {
	case rules.Redirected, rules.TProxied:
		leads := "to a listener of the pod"
		for _, met := range path.Steps {
			switch met.Rule.Target.(type) {
			case rules.Redirect, rules.TProxy:
				leads = met.Rule.Why
			}
		}
		return fmt.Sprintf("%s, port %d; the destination was %s", leads, e.Port, e.Original)
	case rules.Delivered:
		return fmt.Sprintf("to whoever listens on %s in the pod: no rule gives it to the proxy", e.To)
	case rules.Leaves:
		where := "by " + e.Interface
		if e.Interface == "" {
			where = "forwarded"
		}
		return fmt.Sprintf("leaves for %s, %s: no rule gives it to the proxy", e.To, where)
	case rules.Dropped:
		return "dropped, without an answer"
	case rules.Refused:
		if path.Packet.Protocol == rules.TCP {
			return "refused, by a TCP reset"
		}
		return "refused: ICMP says that nobody listens there"
	}
	return e.String()
}

func (w Way) Print(to io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s\n%s\n", w.Pod, w.Packet)
	if len(w.Assumed) > 0 {
		fmt.Fprintf(&out, "assumed: %s\n", strings.Join(w.Assumed, ", "))
	}
	for _, text := range w.Notes {
		fmt.Fprintf(&out, "note: %s\n", text)
	}
	out.WriteString("\n")
	for _, s := range w.Steps {
		if s.Table == "" {
			fmt.Fprintf(&out, "  (%s)\n", s.Note)
			continue
		}
		why := s.Why
		if s.Note != "" {
			why += ": " + s.Note
		}
		fmt.Fprintf(&out, "  %s %s %d: %s\n      %s\n", s.Table, s.Chain, s.Number, s.Rule, why)
	}
	if len(w.Steps) == 0 {
		out.WriteString("  no rule matches\n")
	}
	fmt.Fprintf(&out, "\nends: %s\n", w.End.Text)
	_, err := io.WriteString(to, PlainLines(out.String()))
	return err
}
