// SPDX-License-Identifier: Apache-2.0

// Package generate makes pods, their plans and packets to send through them, for tests of every layer. What
// it draws follows from the source of randomness alone, so that a seed names a failure.
package generate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Setting is a pod, what its node is configured for, and what follows.
type Setting struct {
	Defaults   istio.Defaults
	Pod        rules.Pod
	Intent     istio.Intent
	Plan       rules.Plan
	Interfaces []rules.Interface
}

// The values are few, so that lists meet each other, and they are those that have once made trouble.
var (
	ports       = []uint16{22, 25, 53, 80, 443, 8080, 15001, 15002, 15006, 15008, 15020, 15021, 15053, 15090, 65535}
	ranges      = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/16", "10.244.1.7/32", "172.16.0.0/12", "0.0.0.0/0", "127.0.0.0/8", "127.1.2.3/32", "127.0.0.1/32", "fd00::/8", "fd00:10:96::/112", "fd00:10:244::7/128", "::/0", "::1/128"}
	interfaces  = []string{"net1", "net2", "k6t0"}
	groups      = []uint32{0, 7, 8, 888, 1337}
	loopbacks   = []string{"127.0.0.1/32", "127.0.0.1/32", "127.0.0.0/8", "127.0.0.0/30"}
	addressSets = [][]string{{"10.244.1.7"}, {"fd00:10:244::7"}, {"10.244.1.7", "fd00:10:244::7"}}
)

// Draw returns a setting out of the whole space of them. It asks again for one that is refused, as ports
// that exclude each other are.
func Draw(random *rand.Rand) Setting {
	for {
		s := Setting{Defaults: defaults(random), Pod: pod(random)}
		if err := s.Settle(); err == nil {
			return s
		}
	}
}

// Settle decides about the pod and makes its plan.
func (s *Setting) Settle() error {
	d := istio.New(s.Defaults).Decide(s.Pod)
	if d.Action != rules.Enrol {
		return fmt.Errorf("%s: %s", d.Action, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: s.Pod.IPs})
	if err != nil {
		return err
	}
	s.Plan, s.Intent = plan, d.Intent.(istio.Intent)
	s.Interfaces = Interfaces(plan, s.Pod.IPs)
	return nil
}

func defaults(random *rand.Rand) istio.Defaults {
	d := istio.Standard()
	if random.IntN(3) == 0 {
		d.OutboundPort, d.InboundPort, d.TunnelPort, d.DNSPort = 25001, 25006, 25008, 25053
	}
	switch random.IntN(3) {
	case 0:
		d.UID, d.GID = 2102, 3102
	case 1:
		d.UID = 2102
	}
	d.DNSCapture, d.DualStack, d.InvalidDrop = flip(random), flip(random), flip(random)
	d.WithoutIPv6 = pick(random, rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block)
	if random.IntN(3) == 0 {
		d.OwnerGroups = some(random, groups)
	}
	if flip(random) {
		d.OwnerGroupsExclude = some(random, groups)
	}
	d.Loopback = netip.MustParsePrefix(pick(random, loopbacks...))
	return d
}

func pod(random *rand.Rand) rules.Pod {
	annotations := map[string]string{"sidecar.istio.io/status": "{}"}
	set := func(key, value string) {
		if random.IntN(3) > 0 {
			annotations[key] = value
		}
	}
	list := func(from []uint16) string { return join(long(random, some(random, from), run)) }
	cidrs := func() string { return strings.Join(long(random, some(random, ranges), halves), ",") }
	orAll := func(list string) string {
		if flip(random) {
			return "*"
		}
		return list
	}
	set("sidecar.istio.io/interceptionMode", pick(random, "REDIRECT", "TPROXY"))
	set("traffic.sidecar.istio.io/includeInboundPorts", orAll(list(ports)))
	set("traffic.sidecar.istio.io/excludeInboundPorts", list(ports))
	set("traffic.sidecar.istio.io/includeOutboundPorts", list(ports))
	set("traffic.sidecar.istio.io/excludeOutboundPorts", list(ports))
	set("traffic.sidecar.istio.io/includeOutboundIPRanges", orAll(cidrs()))
	set("traffic.sidecar.istio.io/excludeOutboundIPRanges", cidrs())
	set("traffic.sidecar.istio.io/excludeInterfaces", strings.Join(some(random, interfaces), ","))
	set("istio.io/reroute-virtual-interfaces", strings.Join(some(random, interfaces), ","))
	p := rules.Pod{Namespace: "shop", Name: "cart", Annotations: annotations}
	for _, ip := range pick(random, addressSets...) {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

// Interfaces returns those of a pod with these addresses on eth0, and all others that its plan names.
func Interfaces(plan rules.Plan, ips []netip.Addr) []rules.Interface {
	all := []rules.Interface{{Name: "eth0", Addresses: ips}}
	names := map[string]bool{"lo": true, "eth0": true}
	add := func(name string) {
		if names[name] {
			return
		}
		names[name] = true
		n := byte(len(all))
		all = append(all, rules.Interface{Name: name, Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{192, 168, n, 7}), netip.AddrFrom16([16]byte{0: 0xfd, 3: 0xc0, 5: n, 15: 7})}})
	}
	for _, rs := range plan.Rulesets() {
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					for _, m := range r.Match {
						if link, ok := m.Value.(rules.Link); ok {
							add(string(link))
						}
					}
				}
			}
		}
	}
	return all
}

func flip(random *rand.Rand) bool { return random.IntN(2) == 0 }

func pick[T any](random *rand.Rand, values ...T) T { return values[random.IntN(len(values))] }

// some returns none to three of the values, in any order, now and then one twice.
func some[T any](random *rand.Rand, values []T) []T {
	list := []T{}
	for range random.IntN(4) {
		list = append(list, pick(random, values...))
	}
	return list
}

// long makes a list now and then so long that it is merged, of more values in any order.
func long[T any](random *rand.Rand, list []T, more func(*rand.Rand) []T) []T {
	if random.IntN(8) > 0 {
		return list
	}
	list = append(list, more(random)...)
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// run is a row of ports, with those in it that other lists name.
func run(random *rand.Rand) (list []uint16) {
	first := pick(random, 70, 430, 15000, 65535-19)
	for i := range 20 {
		if random.IntN(6) > 0 {
			list = append(list, uint16(first+i))
		}
	}
	return list
}

// halves are prefixes that lie side by side and in each other, around addresses that packets have.
func halves(random *rand.Rand) (list []string) {
	for i := range 20 {
		if random.IntN(6) > 0 {
			list = append(list, pick(random, fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("10.%d.0.0/16", 240+i%8), fmt.Sprintf("fd00:10:24%x::/48", i%8)))
		}
	}
	return list
}

func join(ports []uint16) string {
	var words []string
	for _, port := range ports {
		words = append(words, strconv.Itoa(int(port)))
	}
	return strings.Join(words, ",")
}
