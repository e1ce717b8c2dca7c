// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/meshnetd/meshnetd/rules"
)

// Question is which packet a trace is about.
type Question struct {
	protocol, destination, source, iface string
	uid, gid                             string
	in                                   bool
	any                                  bool // protocols besides TCP and UDP are known
}

const (
	defaultID   = 1000  // of a process that nobody named
	defaultPort = 40000 // of a client that nobody named
)

var errTraceWords = errors.New("want a pod, a protocol and where the packet goes, as in `meshnetd trace shop/cart tcp 203.0.113.10:443`; " +
	"with -f POD the name is left out")

// portless are protocols of which a packet is named without a port; of ICMP it is an echo.
var portless = []string{rules.ICMP, "sctp", "gre"}

// Flags are those that say more about the packet.
func (q *Question) Flags(flags *pflag.FlagSet) {
	flags.BoolVar(&q.in, "in", false, "a packet that arrives from a peer")
	flags.Bool("out", false, "a packet that a process of the pod sends (default)")
	flags.StringVar(&q.uid, "uid", "", fmt.Sprintf("user `ID` of the process that sends (default %d)", defaultID))
	flags.StringVar(&q.gid, "gid", "", fmt.Sprintf("group `ID` of the process that sends (default %d)", defaultID))
	flags.StringVar(&q.iface, "iface", "", "`NAME[=ADDRESS]` of the interface by which the packet leaves or arrives, with the pod's address there where a manifest has none of it (default: that of the pod's address)")
	flags.StringVar(&q.source, "src", "", "`ADDRESS[:PORT]` that it comes from (default: the pod's own, or a peer's for --in)")
}

// ParseQuestion reads the arguments of `meshnetd trace` from one text.
func ParseQuestion(text string) (q Question, err error) {
	flags := pflag.NewFlagSet("packet", pflag.ContinueOnError)
	q.Flags(flags)
	if err := flags.Parse(strings.Fields(text)); err != nil {
		return q, fmt.Errorf("--packet %q: %w", text, err)
	}
	if _, err = q.Words(flags.Args(), "-"); err != nil {
		return q, fmt.Errorf("--packet %q: %w", text, err)
	}
	return q, nil
}

// Words takes the arguments apart: the pod's name, where no file says who it is, a protocol and a destination.
func (q *Question) Words(args []string, file string) (pod string, err error) {
	if file == "" && len(args) == 3 {
		pod, args = args[0], args[1:]
	}
	if len(args) != 2 || file == "" && pod == "" {
		return "", errTraceWords
	}
	q.protocol, q.destination = args[0], args[1]
	_, _, err = q.packet(nil) // what is wrong with the words is said before anybody is asked
	return pod, err
}

// packet returns the packet in a pod with these interfaces, and what had to be assumed.
func (q Question) packet(interfaces []rules.Interface) (p rules.Packet, assumptions []string, err error) {
	assume := func(format string, args ...any) { assumptions = append(assumptions, fmt.Sprintf(format, args...)) }
	if !slices.Contains([]string{rules.TCP, rules.UDP}, q.protocol) && (!q.any || !slices.Contains(portless, q.protocol)) {
		return p, nil, fmt.Errorf("protocol %q is not tcp or udp, as in `tcp 203.0.113.10:443`: the rules know no other, and leave all others alone", q.protocol)
	}
	p = rules.Packet{Protocol: q.protocol, State: rules.StateNew}
	if p.Destination, err = q.target(interfaces); err != nil {
		return p, nil, err
	}
	if p.Protocol == rules.ICMP && p.Family() == rules.IPv6 {
		p.Protocol = rules.ICMPv6
	}
	if q.in {
		p.Direction = rules.Inbound
	}
	if err := q.owner(&p, assume); err != nil {
		return p, nil, err
	}
	first := rules.Leading(interfaces)
	name, interfaces, err := q.by(interfaces)
	if err != nil {
		return p, nil, err
	}
	if name == "" {
		if name = first; q.in || !rules.Local(interfaces, p.Destination.Addr()) {
			assume("by interface %s (--iface)", name)
		}
	}
	p.In, p.Out = name, name
	if !q.in {
		p.In = ""
	}
	switch {
	case !q.in || rules.Local(interfaces, p.Destination.Addr()):
	case addressed(interfaces, p):
		assume("%s is no address of the pod, which forwards the packet", p.Destination.Addr())
		p.Out = first
	default: // see reached
		assume("%s has the address %s", p.In, p.Destination.Addr())
	}
	p.Source, err = q.from(p, interfaces, assume)
	return p, assumptions, err
}

// by returns the interface that was named, "" where none was, and the pod's interfaces with what was said of it.
func (q Question) by(interfaces []rules.Interface) (name string, all []rules.Interface, err error) {
	name, text, said := strings.Cut(q.iface, "=")
	if err := checkInterface(name, q.in); err != nil || !said {
		return name, interfaces, err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || name == "" || addr.Zone() != "" {
		return "", nil, fmt.Errorf("--iface %q is no name with the pod's address there, such as docker0=172.17.0.1", q.iface)
	}
	return name, append(slices.Clone(interfaces), rules.Interface{Name: name, Addresses: []netip.Addr{addr.Unmap()}}), nil
}

// target reads where the packet goes; a port alone is one of the pod's own address, for --in.
func (q Question) target(interfaces []rules.Interface) (netip.AddrPort, error) {
	text := q.destination
	if q.in && strings.HasPrefix(text, ":") {
		port, err := portOf(text[1:])
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("destination %q: %w, as in --in tcp :8080", text, err)
		}
		addr, _ := rules.Own(interfaces, rules.IPv4)
		return netip.AddrPortFrom(addr, port), nil
	}
	to, err := parseAddrPort(text)
	if err != nil {
		return to, fmt.Errorf("destination %q: %w", text, err)
	}
	return to, nil
}

// owner sets whose the packet is.
func (q Question) owner(p *rules.Packet, assume func(string, ...any)) error {
	if q.in {
		if q.uid != "" || q.gid != "" {
			return errors.New("--uid and --gid are of a process of the pod that sends: they do not go with --in")
		}
		return nil
	}
	p.Socket, p.UID, p.GID = true, defaultID, defaultID
	for _, id := range []struct {
		flag, text string
		target     *uint32
	}{{"uid", q.uid, &p.UID}, {"gid", q.gid, &p.GID}} {
		if id.text == "" {
			assume("%s %d (--%s)", id.flag, defaultID, id.flag)
			continue
		}
		n, err := strconv.ParseUint(id.text, 10, 32)
		if err != nil || n == 1<<32-1 {
			return fmt.Errorf("--%s %q is not a number from 0 to %d, as in --%s 1337; names are not looked up", id.flag, id.text, uint32(1<<32-2), id.flag)
		}
		*id.target = uint32(n)
	}
	return nil
}

// from returns where the packet comes from.
func (q Question) from(p rules.Packet, interfaces []rules.Interface, assume func(string, ...any)) (netip.AddrPort, error) {
	six := p.Family() == rules.IPv6
	if q.source != "" {
		from, err := parseSource(q.source)
		if err != nil {
			return from, fmt.Errorf("--src %q: %w", q.source, err)
		}
		if from.Addr().Is6() != six {
			return from, fmt.Errorf("--src %q and destination %q are of two families", q.source, q.destination)
		}
		return from, nil
	}
	port := uint16(defaultPort)
	if q.in {
		addr := netip.MustParseAddr("192.0.2.99")
		if six {
			addr = netip.MustParseAddr("2001:db8::99")
		}
		assume("from a peer %s (--src)", netip.AddrPortFrom(addr, port))
		return netip.AddrPortFrom(addr, port), nil
	}
	dst := p.Destination.Addr()
	if rules.Local(interfaces, dst) { // the kernel takes the same one, for 127.0.0.0/8 the first
		if dst.IsLoopback() && !six {
			dst = rules.IPv4.Loopback()
		}
		assume("from %s (--src)", netip.AddrPortFrom(dst, port))
		return netip.AddrPortFrom(dst, port), nil
	}
	addr, known := rules.Own(interfaces, p.Family())
	if !known {
		assume("from %s, for no such address of the pod is known (--src)", netip.AddrPortFrom(addr, port))
	} else {
		assume("from %s (--src)", netip.AddrPortFrom(addr, port))
	}
	return netip.AddrPortFrom(addr, port), nil
}

// parseAddrPort reads ADDRESS:PORT, an IPv6 address in brackets.
func parseAddrPort(text string) (netip.AddrPort, error) {
	const example = "as in 203.0.113.10:443 or [2001:db8::10]:443"
	if to, err := netip.ParseAddrPort(text); err == nil {
		addr := to.Addr().Unmap()
		switch {
		case addr.Zone() != "":
			return netip.AddrPort{}, fmt.Errorf("an address has no zone here: name the interface by --iface, %s", example)
		case addr.IsUnspecified():
			return netip.AddrPort{}, fmt.Errorf("no packet goes to %s: write an address, %s", addr, example)
		}
		return netip.AddrPortFrom(addr, to.Port()), nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		if i := strings.LastIndex(text, ":"); addr.Is6() && i > 0 {
			if short, err := netip.ParseAddr(text[:i]); err == nil && short.Is6() {
				return netip.AddrPort{}, fmt.Errorf("an IPv6 address stands in brackets: write [%s]:%s, or [%s]:443", short, text[i+1:], addr)
			}
			return netip.AddrPort{}, fmt.Errorf("has no port: write [%s]:443, for the port after the brackets", addr)
		}
		return netip.AddrPort{}, fmt.Errorf("has no port: write %s:443", addr)
	}
	i := strings.LastIndex(text, ":")
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("is no address with a port, %s; names are not looked up", example)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(text[:i], "["), "]")
	if addr, err := netip.ParseAddr(host); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address, %s; names are not looked up", host, example)
	} else if addr.Is6() && !strings.HasPrefix(text, "[") {
		return netip.AddrPort{}, fmt.Errorf("an IPv6 address stands in brackets: write [%s]:%s", host, text[i+1:])
	}
	_, err := portOf(text[i+1:])
	if err == nil {
		err = errors.New("only an IPv6 address stands in brackets")
	}
	return netip.AddrPort{}, fmt.Errorf("%w, %s", err, example)
}

func portOf(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no port from 0 to 65535", text)
	}
	return uint16(port), nil
}

// parseSource reads ADDRESS[:PORT].
func parseSource(text string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil && addr.Zone() == "" {
		return netip.AddrPortFrom(addr.Unmap(), defaultPort), nil
	}
	return parseAddrPort(text)
}

const longestInterface = 15

func checkInterface(name string, in bool) error {
	switch {
	case in && name == "lo":
		return errors.New("--in by lo cannot be: what comes by lo was sent in the pod, and is traced by --out")
	case len(name) > longestInterface || strings.ContainsAny(name, "/ \t\n"):
		return fmt.Errorf("--iface %q is no name of an interface, such as eth0", name)
	}
	return nil
}

// addressed reports whether an address is known of the interface that a packet arrives by, of the packet's family.
func addressed(interfaces []rules.Interface, p rules.Packet) bool {
	return slices.ContainsFunc(interfaces, func(i rules.Interface) bool {
		return i.Name == p.In && slices.ContainsFunc(i.Addresses, func(addr netip.Addr) bool { return addr.Is6() == p.Destination.Addr().Is6() })
	})
}

// reached gives the interface that a packet arrives by an address, where none is known: that of its destination.
func reached(interfaces []rules.Interface, p rules.Packet) []rules.Interface {
	if addressed(interfaces, p) {
		return interfaces
	}
	return append(slices.Clone(interfaces), rules.Interface{Name: p.In, Addresses: []netip.Addr{p.Destination.Addr()}})
}
