// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What holds for every pod of the mesh and every packet, whatever the settings. All tests are asked about the
// same drawn pods; a failure names the seed, the settings and the way of the packet.

const (
	drawnPlans   = 2500 // 200 in a short run
	drawnPackets = 40   // of each plan
)

// drawn returns the pods, by seed.
var drawn = sync.OnceValue(func() []generate.Setting {
	n := drawnPlans
	if testing.Short() {
		n = 200
	}
	all := make([]generate.Setting, n)
	for seed := range all {
		all[seed] = generate.Draw(rand.New(rand.NewPCG(uint64(seed), 7)))
	}
	return all
})

// drawnSent returns packets of every pod, sent through its plan.
var drawnSent = sync.OnceValues(func() ([]sent, error) {
	return sendAll(generate.Setting.Packet)
})

func sendAll(draw func(generate.Setting, *rand.Rand) rules.Packet) ([]sent, error) {
	var all []sent
	for seed := range drawn() {
		s := &drawn()[seed]
		random := rand.New(rand.NewPCG(uint64(seed), 1))
		tracer := effect.NewTracer(s.Plan, s.Interfaces)
		for range drawnPackets {
			x, err := send(s, tracer, draw(*s, random))
			if err != nil {
				return nil, fmt.Errorf("seed %d: %w\n%+v", seed, err, s.Intent)
			}
			x.seed = seed
			all = append(all, x)
		}
	}
	return all, nil
}

// sent is a packet that has gone through a drawn pod's plan.
type sent struct {
	*generate.Setting
	seed   int
	packet rules.Packet
	end    rules.End
	place  istio.Place
}

func send(s *generate.Setting, tracer *effect.Tracer, packet rules.Packet) (sent, error) {
	if packet.State == 0 {
		packet.State = rules.StateNew
	}
	end, err := tracer.End(packet)
	return sent{Setting: s, packet: packet, end: end, place: s.Intent.Place(end)}, err
}

// way prints how the packet went.
func (x sent) way() string {
	path, err := effect.Trace(x.Plan, x.packet, x.Interfaces)
	return fmt.Sprintf("seed %d\n%+v\n%v\n%s", x.seed, x.Intent, err, path)
}

// everyPacket calls hold with every drawn packet. hold returns whether the invariant says anything about
// it, and what is wrong. An invariant that is asked too little fails too.
func everyPacket(t *testing.T, hold func(sent) (asked bool, problem string)) {
	t.Helper()
	t.Parallel()
	all, err := drawnSent()
	if err != nil {
		t.Fatal(err)
	}
	everySent(t, all, hold)
}

// everyPacketOf is everyPacket for packets of one kind.
func everyPacketOf(t *testing.T, draw func(generate.Setting, *rand.Rand) rules.Packet, hold func(sent) (asked bool, problem string)) {
	t.Helper()
	t.Parallel()
	all, err := sendAll(draw)
	if err != nil {
		t.Fatal(err)
	}
	everySent(t, all, hold)
}

func everySent(t *testing.T, all []sent, hold func(sent) (bool, string)) {
	t.Helper()
	asked := 0
	for _, x := range all {
		ok, problem := hold(x)
		if problem != "" {
			t.Fatalf("%s\n%s", problem, x.way())
		}
		if ok {
			asked++
		}
	}
	if plans := len(drawn()); asked < plans/10 {
		t.Errorf("only %d packets of %d plans had to do with it", asked, plans)
	}
}

func (x sent) outbound() bool { return x.packet.Direction == rules.Outbound }

func (x sent) tcp() bool { return x.packet.Protocol == rules.TCP }

// first reports whether the packet opens a connection: what happens to it happens to all of them.
func (x sent) first() bool { return x.packet.State == rules.StateNew }

// taken reports whether a rule gave the packet to another than the one it was sent to.
func (x sent) taken() bool {
	return x.end.Kind == rules.Redirected || x.end.Kind == rules.TProxied
}

// byUser reports whether the packet is the proxy's by its user id, byGroup by its group id.
func (x sent) byUser() bool { return x.packet.Socket && x.packet.UID == x.Intent.UID }

func (x sent) byGroup() bool { return x.packet.Socket && x.packet.GID == x.Intent.GID }

func (x sent) proxys() bool { return x.byUser() || x.byGroup() }

// apps reports whether the packet is an app's, or the kernel's: not the proxy's, and not on a socket or a
// connection with one of the proxy's marks, which takes a privilege.
func (x sent) apps() bool {
	marked := func(mark uint32) bool { return mark == 1337 || mark == 1338 }
	return !x.proxys() && !marked(x.packet.Mark) && !marked(x.packet.ConnMark)
}

// stays reports whether a packet that is sent stays in the pod: to an address of its own, or because a mark
// on its socket says so.
func (x sent) stays() bool {
	dst := x.packet.Destination.Addr()
	return x.outbound() && (dst.IsLoopback() || slices.ContainsFunc(x.Plan.Loopback, func(p netip.Prefix) bool { return p.Addr() == dst }) ||
		slices.ContainsFunc(x.Interfaces, func(i rules.Interface) bool { return slices.Contains(i.Addresses, dst) }) ||
		slices.ContainsFunc(x.Plan.Routes, func(r rules.PolicyRoute) bool {
			return r.Family == x.packet.Family() && r.Mark == x.packet.Mark
		}))
}

// captured reports whether the packet's family is redirected, resets whether it is reset instead.
func (x sent) captured() bool { return len(x.rules().Table("nat").Chains) > 0 }

func (x sent) resets() bool { return len(x.rules().Table("filter").Chains) > 0 }

func (x sent) rules() rules.Ruleset {
	if x.packet.Family() == rules.IPv6 {
		return x.Plan.V6
	}
	return x.Plan.V4
}

func (x sent) port() uint16 { return x.packet.Destination.Port() }

func (x sent) excludedInterface() bool {
	name := x.packet.In
	if x.outbound() {
		name = x.packet.Out
		if x.stays() {
			name = "lo"
		}
	}
	return slices.Contains(x.Intent.ExcludeInterfaces, name)
}

func (x sent) rerouted() bool {
	return !x.outbound() && slices.Contains(x.Intent.RerouteInterfaces, x.packet.In)
}

// excludedOwner reports whether the settings leave the packet's group alone.
func (x sent) excludedOwner() bool {
	in := x.Intent
	if in.OwnerGroups == nil {
		return x.packet.Socket && slices.Contains(in.OwnerGroupsExclude, x.packet.GID)
	}
	return !x.packet.Socket || !slices.Contains(in.OwnerGroups, x.packet.GID)
}

func (x sent) within(prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(x.packet.Destination.Addr()) })
}

// lookup reports whether a packet is a name lookup that is to be captured.
func (x sent) lookup() bool { return x.Intent.DNSCapture && x.port() == 53 }

// fromPassthrough reports whether the packet has the address from which the proxy passes on what came in.
func (x sent) fromPassthrough() bool {
	src := x.packet.Source.Addr().String()
	return src == "127.0.0.6" || src == "::6"
}

// passedOn reports whether the proxy passes on to the app what came in: it sends from the passthrough
// address, or with TPROXY from the client's address with the mark, as root of its group.
func (x sent) passedOn() bool {
	if x.fromPassthrough() {
		return x.proxys()
	}
	return x.Intent.TProxy && x.packet.Mark == 1337 && x.byGroup() && !x.byUser()
}

func wrong(format string, args ...any) (bool, string) { return true, fmt.Sprintf(format, args...) }
