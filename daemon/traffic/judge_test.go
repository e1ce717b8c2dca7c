// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/rules"
)

var (
	pod     = netip.MustParseAddr("10.9.0.1")
	nobody  = netip.MustParseAddr("192.0.2.1")
	home    = netip.MustParseAddr("127.0.0.1")
	sees    = abilities{tracking: true, counting: true}
	proxy1  = listener{cookie: 1, at: netip.MustParseAddrPort("0.0.0.0:15001")}
	proxy6  = listener{cookie: 2, at: netip.MustParseAddrPort("0.0.0.0:15006")}
	webApp  = listener{cookie: 3, at: netip.MustParseAddrPort("0.0.0.0:8080")}
	waiting = []listener{proxy1, proxy6, webApp}
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func end(kind rules.EndKind, port uint16, to netip.AddrPort) rules.End {
	return rules.End{Kind: kind, Port: port, To: to}
}

func to(a netip.Addr, port uint16, zone uint16) *conntrack.Entry {
	return &conntrack.Entry{To: at(a, port), Zone: zone}
}

func TestJudge(t *testing.T) {
	out := rules.Packet{Direction: rules.Outbound, Protocol: rules.TCP, Source: at(pod, 4), Destination: at(nobody, 80), Out: "eth0"}
	lookup := rules.Packet{Direction: rules.Outbound, Protocol: rules.UDP, Source: at(pod, 4), Destination: at(nobody, 53), Out: "eth0"}
	in := rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, Source: at(nobody, 4), Destination: at(pod, 8080), In: "eth0"}
	own := rules.Packet{Direction: rules.Outbound, Protocol: rules.TCP, Source: at(pod, 4), Destination: at(pod, 8080), Out: "lo"}
	captured, left := end(rules.Redirected, 15001, at(home, 15001)), rules.End{Kind: rules.Leaves, To: at(nobody, 80)}
	inward, passed := end(rules.TProxied, 15006, at(pod, 8080)), end(rules.Delivered, 8080, at(pod, 8080))
	zoned := end(rules.Redirected, 15053, at(home, 15053))
	zoned.Zone = 2
	itself := end(rules.Redirected, 15006, at(pod, 15006))
	toItself := in
	toItself.Destination = itself.To
	for _, tt := range []struct {
		name    string
		packet  rules.Packet
		want    rules.End
		entry   *conntrack.Entry
		given   []listener
		refused bool
		there   []listener
		can     abilities
		verdict Verdict
		seen    rules.EndKind
		note    string
	}{
		{"captured", out, captured, to(home, 15001, 0), []listener{proxy1}, false, waiting, sees, Right, rules.Redirected, ""},
		{"captured, and noise elsewhere", out, captured, to(home, 15001, 0), []listener{webApp, proxy1}, false, waiting, sees, Right, rules.Redirected, ""},
		{"captured, without a proxy", out, captured, to(home, 15001, 0), nil, false, []listener{webApp}, sees, Right, rules.Redirected, "nobody listens there"},
		{"captured, and dropped before the proxy", out, captured, to(home, 15001, 0), nil, false, waiting, sees, Wrong, rules.Dropped, "dropped on its way in"},
		{"captured, with a kernel that does not count", out, captured, to(home, 15001, 0), nil, false, nil, abilities{tracking: true}, Right, rules.Redirected, ""},
		{"to another port", out, captured, to(home, 15002, 0), nil, false, waiting, sees, Wrong, rules.Redirected, ""},
		{"to another pod", out, captured, to(netip.MustParseAddr("10.9.0.7"), 15001, 0), nil, false, waiting, sees, Wrong, rules.Leaves, ""},
		{"not captured", out, captured, to(nobody, 80, 0), nil, false, waiting, sees, Wrong, rules.Leaves, ""},
		{"dropped", out, captured, nil, nil, false, waiting, sees, Wrong, rules.Dropped, ""},
		{"leaves", out, left, to(nobody, 80, 0), nil, false, waiting, sees, Right, rules.Leaves, ""},
		{"does not leave", out, left, nil, nil, false, waiting, sees, Wrong, rules.Dropped, ""},
		{"is captured and should leave", out, left, to(home, 15001, 0), nil, false, waiting, sees, Wrong, rules.Redirected, ""},
		{"leaves without a trace", out, left, nil, nil, false, waiting, abilities{counting: true}, Unproven, rules.Dropped, "no trace"},
		{"reset", out, end(rules.Refused, 0, at(nobody, 80)), nil, nil, true, waiting, sees, Right, rules.Refused, ""},
		{"dropped instead of reset", out, end(rules.Refused, 0, at(nobody, 80)), nil, nil, false, waiting, sees, Wrong, rules.Dropped, ""},
		{"reset on its way in", in, end(rules.Refused, 0, at(pod, 8080)), nil, nil, false, waiting, sees, Right, rules.Refused, "not seen from here"},
		{"let in", in, end(rules.Refused, 0, at(pod, 8080)), to(pod, 8080, 0), []listener{webApp}, false, waiting, sees, Wrong, rules.Delivered, ""},
		{"lookup", lookup, zoned, to(home, 15053, 2), nil, false, waiting, sees, Right, rules.Redirected, ""},
		{"lookup in another zone", lookup, zoned, to(home, 15053, 0), nil, false, waiting, sees, Wrong, rules.Redirected, ""},
		{"tproxied", in, inward, to(pod, 8080, 0), []listener{proxy6}, false, waiting, sees, Right, rules.TProxied, ""},
		{"tproxied, and noise elsewhere", in, inward, to(pod, 8080, 0), []listener{proxy1, proxy6}, false, waiting, sees, Right, rules.TProxied, ""},
		{"tproxied to the outbound listener", in, inward, to(pod, 8080, 0), []listener{proxy1}, false, waiting, sees, Wrong, rules.TProxied, ""},
		{"the app has it", in, inward, to(pod, 8080, 0), []listener{webApp}, false, waiting, sees, Wrong, rules.Delivered, ""},
		{"nobody has it", in, inward, nil, nil, false, waiting, sees, Wrong, rules.Dropped, ""},
		{"tproxied, without a proxy", in, inward, nil, nil, false, []listener{webApp}, sees, Unproven, rules.Dropped, "nobody listens on port 15006"},
		{"tproxied over loopback, without a proxy", own, inward, to(pod, 8080, 0), nil, false, []listener{proxy1}, sees, Unproven, rules.Delivered, "nobody listens on port 15006"},
		{"the app has it, without a proxy", in, inward, to(pod, 8080, 0), []listener{webApp}, false, []listener{webApp}, sees, Wrong, rules.Delivered, ""},
		{"tproxied, with a kernel that does not count", in, inward, to(pod, 8080, 0), nil, false, nil, abilities{tracking: true}, Unproven, rules.Delivered, "does not show"},
		{"excluded", in, passed, to(pod, 8080, 0), []listener{webApp}, false, waiting, sees, Right, rules.Delivered, ""},
		{"excluded, and captured", in, passed, to(pod, 8080, 0), []listener{proxy6}, false, waiting, sees, Wrong, rules.TProxied, ""},
		{"to the proxy's own port", toItself, itself, to(pod, 15006, 0), []listener{proxy6}, false, waiting, sees, Right, rules.Delivered, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			local := func(a netip.Addr) bool { return a == pod || a.IsLoopback() }
			seen, verdict, note := judge(tt.packet, tt.want, sighting{entry: tt.entry, given: tt.given, refused: tt.refused, listeners: tt.there, local: local}, tt.can)
			if verdict != tt.verdict || seen.Kind != tt.seen || !strings.Contains(note, tt.note) || (note == "") != (tt.note == "") {
				t.Errorf("%s, %s, %q; want %s, %s, %q", verdict, seen.Kind, note, tt.verdict, tt.seen, tt.note)
			}
		})
	}
}

// What is waited for: nothing where the call that sends has told all.
func TestFinal(t *testing.T) {
	out, in := rules.Packet{Direction: rules.Outbound}, rules.Packet{Direction: rules.Inbound}
	want := end(rules.Redirected, 15001, at(home, 15001))
	for _, tt := range []struct {
		name   string
		packet rules.Packet
		entry  *conntrack.Entry
		final  bool
	}{
		{"out, without a trace", out, nil, true},
		{"in, without a trace", in, nil, false},
		{"led elsewhere", in, to(pod, 8080, 0), true},
		{"on its way to the listener", out, to(home, 15001, 0), false},
	} {
		if got := (sighting{entry: tt.entry}).final(tt.packet, want); got != tt.final {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestHears(t *testing.T) {
	for _, tt := range []struct {
		at, to string
		only6  bool
		want   bool
	}{
		{"0.0.0.0:80", "10.9.0.1:80", false, true},
		{"0.0.0.0:80", "10.9.0.1:81", false, false},
		{"10.9.0.1:80", "10.9.0.1:80", false, true},
		{"127.0.0.1:80", "10.9.0.1:80", false, false},
		{"[::]:80", "10.9.0.1:80", false, true},
		{"[::]:80", "10.9.0.1:80", true, false},
		{"[::]:80", "[fd00::1]:80", true, true},
		{"0.0.0.0:80", "[fd00::1]:80", false, false},
		{"[::1]:80", "[fd00::1]:80", false, false},
		{"[fd00::1]:80", "10.9.0.1:80", false, false},
	} {
		if got := (listener{at: netip.MustParseAddrPort(tt.at), only6: tt.only6}).hears(netip.MustParseAddrPort(tt.to)); got != tt.want {
			t.Errorf("%s (only IPv6: %v) for %s: %v", tt.at, tt.only6, tt.to, got)
		}
	}
}

func TestCounted(t *testing.T) {
	more, fresh := proxy6, listener{cookie: 9, at: proxy6.at, drops: 7}
	more.drops++
	if got := counted(waiting, []listener{proxy1, more, webApp, fresh}); len(got) != 1 || got[0] != more {
		t.Errorf("got %v", got)
	}
}
