// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio/generate"
)

// draws is how many settings a test draws: MESHNETD_DRAWS, or what it usually does.
func draws(t testing.TB, usual int) int {
	t.Helper()
	text := os.Getenv("MESHNETD_DRAWS")
	if text == "" {
		return usual
	}
	k, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// contains reports whether a packet is one of a flow's.
func (f *flow) contains(pod *Pod, p rules.Packet) bool {
	if f.inbound != (p.Direction == rules.Inbound) || f.owned != p.Socket {
		return false
	}
	v := [fields]Number{Protocol: N(protocols[p.Protocol]), Source: Address(p.Source.Addr().WithZone("")), Destination: Address(p.Destination.Addr().WithZone("")),
		SourcePort: N(uint64(p.Source.Port())), DestinationPort: N(uint64(p.Destination.Port())), UID: N(uint64(p.UID)), GID: N(uint64(p.GID)),
		In: N(pod.number(p.In)), Out: N(pod.number(p.Out)), Mark: N(uint64(p.Mark)), ConnMark: N(uint64(p.ConnMark)), CTState: N(max(uint64(p.State), fresh))}
	if p.State == rules.StateInvalid {
		v[CTState] = N(invalid)
	}
	v[Listening] = N(1)
	if p.Transparent {
		v[Transparent] = N(1)
	}
	for x, value := range v {
		if Field(x) == In && !f.inbound || !f.owned && (Field(x) == UID || Field(x) == GID) {
			continue
		}
		if !f.box[x].has(value) {
			return false
		}
	}
	return true
}

// ends returns where all packets of a pod end by a side's rules.
func ends(t testing.TB, pod *Pod, side *Side) []*flow {
	t.Helper()
	c := comparison{pod: pod, limit: maxWork}
	var all []*flow
	for _, start := range starts(pod, side.six) {
		some, ok := c.walk(side, start)
		if !ok {
			t.Fatal("too much to walk through")
		}
		all = append(all, some...)
	}
	return all
}

var kinds = map[kind]rules.EndKind{delivered: rules.Delivered, redirected: rules.Redirected, tproxied: rules.TProxied,
	dropped: rules.Dropped, refused: rules.Refused, leaves: rules.Leaves}

// said is a packet's end in the words of the tracer, as far as both have them.
func (f *flow) said(six bool, p rules.Packet) string {
	if f.stopped() { // where it was to go does not matter any more
		return fmt.Sprintln(kinds[f.kind])
	}
	to := netip.AddrPortFrom(f.dst.of(&p).address(six), uint16(f.dport.of(&p).lo))
	port := uint16(0)
	switch f.kind {
	case delivered, redirected:
		port = to.Port()
	case tproxied:
		port = f.listener
	case underWay, dropped, refused, leaves, unknown:
	}
	return fmt.Sprintln(kinds[f.kind], port, to, f.zone, f.connMark.of(&p).lo)
}

func traced(e rules.End) string {
	if e.Kind == rules.Dropped || e.Kind == rules.Refused {
		return fmt.Sprintln(e.Kind)
	}
	return fmt.Sprintln(e.Kind, e.Port, netip.AddrPortFrom(e.To.Addr().WithZone(""), e.To.Port()), e.Zone, e.ConnMark)
}

// Every packet that the tracer can be asked about is in one end of the walk, and that is the tracer's.
func TestAsTraced(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	packets := 0
	total := draws(t, 20)
	for range total {
		s := generate.Draw(random)
		if random.IntN(8) == 0 {
			s.Plan.Routes = nil
		}
		for _, rs := range s.Plan.Rulesets() {
			pod := NewPod(s.Interfaces)
			side := OfPlan(pod, s.Plan, rs.Family)
			all := ends(t, pod, side)
			var sent []rules.Packet
			for range 100 {
				sent = append(sent, s.Packet(random))
			}
			if witnesses := generate.Witnesses(rs, s.Interfaces); len(witnesses) > 0 {
				for range 600 {
					sent = append(sent, witnesses[random.IntN(len(witnesses))])
				}
			}
			for _, p := range sent {
				path, err := s.Plan.Trace(p, s.Interfaces)
				if p.Family() != rs.Family || err != nil || p.Direction == rules.Outbound && p.Out == "" {
					continue
				}
				packets++
				var in []*flow
				for _, f := range all {
					if f.contains(pod, p) {
						in = append(in, f)
					}
				}
				if len(in) != 1 {
					t.Fatalf("%s is in %d ends\n%s", p, len(in), path)
				}
				if got, want := in[0].said(side.six, p), traced(path.End); got != want {
					t.Fatalf("got %s, want %s\n%s", got, want, path)
				}
			}
		}
	}
	if packets < 500*total {
		t.Errorf("only %d packets were asked about", packets)
	}
}
