// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

const (
	rangesIncluded = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	rangesExcluded = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
)

// Nothing in a plan is of the node or of another pod: interfaces, addresses, users, marks and ports are the
// mesh's own or stand in the pod's settings.
func TestInvariantNothingOfOthersIsNamed(t *testing.T) {
	t.Parallel()
	for seed, s := range drawn() {
		in := s.Intent
		names := slices.Concat([]string{"lo"}, in.ExcludeInterfaces, in.RerouteInterfaces)
		known := slices.Concat(prefixes("127.0.0.6/32", "::6/128", "::1/128"), []netip.Prefix{in.Loopback}, in.Outbound, in.OutboundExclude)
		ports := slices.Concat([]uint16{53, 15020, 15021, 15090, in.TunnelPort, in.DNSPort}, in.Inbound, in.InboundExclude,
			in.OutboundPorts, in.OutboundPortsExclude)
		listeners := []uint16{in.OutboundPort, in.InboundPort, in.DNSPort}
		gids := slices.Concat([]uint32{in.GID}, in.OwnerGroups, in.OwnerGroupsExclude)
		for _, rs := range s.Plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, c := range table.Chains {
					for _, r := range c.Rules {
						stranger := func(what any) {
							t.Fatalf("seed %d: %s %s: %s: %v is of somebody else\n%+v", seed, table.Name, c.Name, r, what, in)
						}
						for _, m := range r.Match {
							switch v := m.Value.(type) {
							case rules.Link:
								check(stranger, names, string(v))
							case rules.Addresses:
								if !covered(v.Prefix, known) {
									stranger(v)
								}
							case rules.Port, rules.PortList:
								for _, r := range m.Ports() {
									for port := int(r.First); port <= int(r.Last); port++ {
										check(stranger, ports, uint16(port))
									}
								}
							case rules.IDs:
								ids := map[rules.Field][]uint32{rules.FieldUID: {in.UID}, rules.FieldGID: gids}[m.Field]
								check(stranger, ids, v.First)
								check(stranger, ids, v.Last)
							case rules.Mark:
								check(stranger, s.Plan.Footprint.Marks, uint32(v))
							case rules.Transport, rules.CTState:
							default:
								stranger(m)
							}
						}
						switch target := r.Target.(type) {
						case rules.Redirect:
							check(stranger, listeners, target.Port)
						case rules.TProxy:
							check(stranger, listeners, target.Port)
							check(stranger, s.Plan.Footprint.Marks, target.Mark)
						case rules.SetMark:
							check(stranger, s.Plan.Footprint.Marks, uint32(target))
						case rules.Jump:
							check(stranger, s.Plan.Footprint.Chains, string(target))
						case rules.CTZone, rules.Verdict, rules.SaveMark, rules.RestoreMark, rules.RejectWith:
						default:
							stranger(target)
						}
					}
				}
			}
		}
	}
}

// covered reports whether a prefix is one of the known ones, or two halves that are.
func covered(prefix netip.Prefix, known []netip.Prefix) bool {
	if slices.Contains(known, prefix) {
		return true
	}
	half := netip.PrefixFrom(prefix.Addr(), prefix.Bits()+1)
	if !half.IsValid() {
		return false
	}
	bytes := prefix.Addr().AsSlice()
	bytes[prefix.Bits()/8] |= 0x80 >> (prefix.Bits() % 8)
	upper, _ := netip.AddrFromSlice(bytes)
	within := func(p netip.Prefix) bool {
		return slices.ContainsFunc(known, func(k netip.Prefix) bool { return k.Bits() <= p.Bits() && k.Bits() > 0 && k.Contains(p.Addr()) })
	}
	other := netip.PrefixFrom(upper, half.Bits())
	return (within(half) || covered(half, known)) && (within(other) || covered(other, known))
}

func check[T comparable](stranger func(any), known []T, value T) {
	if !slices.Contains(known, value) {
		stranger(value)
	}
}

// Where both families are captured, a packet of one ends where the same packet of the other does. Loopback
// beyond the first address is IPv4's alone.
func TestInvariantFamiliesAgree(t *testing.T) {
	t.Parallel()
	asked := 0
	for seed, s := range drawn() {
		random := rand.New(rand.NewPCG(uint64(seed), 9))
		s.Pod.Annotations = maps.Clone(s.Pod.Annotations)
		s.Defaults.DualStack, s.Defaults.Loopback = true, netip.MustParsePrefix("127.0.0.1/32")
		s.Pod.IPs = addrs("10.244.1.7", mirrored(netip.MustParseAddr("10.244.1.7")).String())
		for _, key := range []string{rangesIncluded, rangesExcluded} {
			mirrorRanges(s.Pod.Annotations, key)
		}
		if err := s.Settle(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range s.Interfaces {
			four := s.Interfaces[i].Addresses[0]
			s.Interfaces[i].Addresses = []netip.Addr{four, mirrored(four)}
		}
		drawing := s
		drawing.Pod.IPs = addrs("10.244.1.7")
		tracer := effect.NewTracer(s.Plan, s.Interfaces)
		for range drawnPackets {
			four := drawing.Packet(random)
			if wideLoopback(four.Source.Addr()) || wideLoopback(four.Destination.Addr()) {
				continue
			}
			six := four
			six.Source, six.Destination = mirroredPort(four.Source), mirroredPort(four.Destination)
			a, b := sendTo(t, seed, &s, tracer, four), sendTo(t, seed, &s, tracer, six)
			want := a.end
			want.To, want.Original = mirroredPort(want.To), mirroredPort(want.Original)
			if want != b.end {
				t.Fatalf("the families differ\n%s\n%s", a.way(), b.way())
			}
			asked++
		}
	}
	if asked < len(drawn()) {
		t.Errorf("only %d packets compared", asked)
	}
}

func sendTo(t *testing.T, seed int, s *generate.Setting, tracer *effect.Tracer, p rules.Packet) sent {
	t.Helper()
	x, err := send(s, tracer, p)
	if err != nil {
		t.Fatal(err)
	}
	x.seed = seed
	return x
}

// mirrored is an IPv6 address that stands for an IPv4 one.
func mirrored(addr netip.Addr) netip.Addr {
	switch addr.String() {
	case "127.0.0.1":
		return netip.IPv6Loopback()
	case "127.0.0.6":
		return netip.MustParseAddr("::6")
	}
	four := addr.As4()
	return netip.AddrFrom16([16]byte{0: 0xfd, 12: four[0], 13: four[1], 14: four[2], 15: four[3]})
}

func mirroredPort(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(mirrored(at.Addr()), at.Port())
}

func wideLoopback(addr netip.Addr) bool {
	return addr.IsLoopback() && addr.String() != "127.0.0.1" && addr.String() != "127.0.0.6"
}

// mirrorRanges gives each IPv4 range of an annotation its IPv6 one, and takes the others out.
func mirrorRanges(annotations map[string]string, key string) {
	value, ok := annotations[key]
	if !ok || value == "*" {
		return
	}
	var both []string
	for _, p := range prefixes(strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...) {
		switch {
		case p.Addr().Is6() || p.Addr().IsLoopback() && p.Bits() != 32 || wideLoopback(p.Addr()):
		case p.Addr().IsLoopback():
			both = append(both, p.String(), "::1/128")
		default:
			both = append(both, p.String(), fmt.Sprintf("%s/%d", mirrored(p.Addr()), 96+p.Bits()))
		}
	}
	annotations[key] = strings.Join(both, ",")
}

// In whatever order the lists come, every packet ends where it did.
func TestInvariantOrderOfListsDoesNotMatter(t *testing.T) {
	t.Parallel()
	differ := 0
	for seed, s := range drawn() {
		random := rand.New(rand.NewPCG(uint64(seed), 10))
		other := s
		other.Pod.Annotations = map[string]string{}
		for _, key := range slices.Sorted(maps.Keys(s.Pod.Annotations)) {
			items := strings.Split(s.Pod.Annotations[key], ",")
			random.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
			other.Pod.Annotations[key] = strings.Join(items, ",")
		}
		for _, groups := range []*[]uint32{&other.Defaults.OwnerGroups, &other.Defaults.OwnerGroupsExclude} {
			*groups = slices.Clone(*groups)
			slices.Reverse(*groups)
		}
		if err := other.Settle(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if s.Plan.V4.String() == other.Plan.V4.String() {
			continue
		}
		differ++
		other.Interfaces = s.Interfaces
		before, after := effect.NewTracer(s.Plan, s.Interfaces), effect.NewTracer(other.Plan, s.Interfaces)
		for range drawnPackets {
			p := s.Packet(random)
			a, b := sendTo(t, seed, &s, before, p), sendTo(t, seed, &other, after, p)
			if a.end != b.end {
				t.Fatalf("%v\n%s\n%v\n%s", s.Pod.Annotations, a.way(), other.Pod.Annotations, b.way())
			}
		}
	}
	if differ < len(drawn())/10 {
		t.Errorf("only %d plans changed with the order", differ)
	}
}

// Whoever can write the widest plans can write every pod's.
func TestWidest(t *testing.T) {
	t.Parallel()
	for _, s := range drawn() {
		meshtest.Widest(t, mesh, s.Plan)
	}
}
