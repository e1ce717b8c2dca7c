// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	inboundMark = 1337 // of what a transparent proxy sends to the app; the app's answers find back by it
	dialLimit   = 5 * time.Second
)

// ownPorts are those on which the sidecar answers itself.
var ownPorts = map[string]int{"tunnel": 15008, "health": 15021, "statistics": 15090}

// envoy carries what is redirected to it, as the sidecar's listeners do: outbound connections to where they
// were going, inbound ones to the app. What it carried it reports, so that a test knows what went around it.
type envoy struct {
	transparent bool
	services    map[netip.AddrPort]netip.AddrPort // where the connections to a service's address go
	app         netip.AddrPort                    // which the agent asks for the kubelet
	lookups     names
	out         *journal
}

// carrier is one of its listeners that carry.
type carrier struct {
	name     string
	port     int
	services map[netip.AddrPort]netip.AddrPort
	dial     func(client, target netip.AddrPort) (net.Conn, error)
}

func runEnvoy(ctx context.Context, args []string, out *journal) error {
	e := &envoy{services: map[netip.AddrPort]netip.AddrPort{}, lookups: names{zone: zone{}, out: out}, out: out}
	flags := flag.NewFlagSet("envoy", flag.ContinueOnError)
	flags.BoolVar(&e.transparent, "transparent", false, "inbound by TPROXY, the client's address kept (needs CAP_NET_ADMIN)")
	flags.StringVar(&e.lookups.upstream, "upstream", "", "name server for the names that are not known")
	flags.Func("service", "VIP:PORT=ADDR:PORT, where connections to a service go", e.addService)
	flags.Func("name", "NAME=ADDR, a name that is known", e.lookups.zone.add)
	flags.TextVar(&e.app, "app", netip.AddrPort{}, "ADDR:PORT that the agent asks when it is asked how the app is")
	outbound := flags.Int("outbound", 15001, "port for redirected outbound connections")
	inbound := flags.Int("inbound", 15006, "port for redirected inbound connections")
	dns := flags.Int("dns", 15053, "port for redirected DNS, UDP and TCP")
	agent := flags.Int("agent", 15020, "port of the agent")
	own := flags.Bool("own-ports", true, "answer on the ports that are the sidecar's own")
	usage := "envoy [--transparent] [--app ADDR:PORT] [--service VIP:PORT=ADDR:PORT]... [--name NAME=ADDR]... [--upstream ADDR:PORT]"
	if _, err := parseMixed(flags, args, 0, usage); err != nil {
		return err
	}

	carriers := []carrier{{"outbound", *outbound, e.services, dialOut}, {"inbound", *inbound, nil, e.dialApp},
		{"agent", *agent, nil, func(_, _ netip.AddrPort) (net.Conn, error) { return dialFrom(passthrough(e.app), e.app, nil) }}}
	var wg sync.WaitGroup
	for _, family := range []struct{ digit, any, loopback string }{{"4", "0.0.0.0", "127.0.0.1"}, {"6", "::", "::1"}} {
		listen := func(name string, port int, transparent bool, serve func(net.Conn)) {
			addr := net.JoinHostPort(family.any, strconv.Itoa(port))
			wg.Go(func() { listenOrTell(ctx, "tcp"+family.digit, addr, name, transparent, out, serve) })
		}
		for _, c := range carriers {
			listen(c.name, c.port, e.transparent && c.name == "inbound", func(conn net.Conn) { e.carry(conn, c) })
		}
		for name, port := range ownPorts {
			if *own {
				listen(name, port, false, func(conn net.Conn) { greetAndEcho(conn, name, out) })
			}
		}
		// As Istio's agent does: an answer must leave from the address that the redirected query went to.
		local := net.JoinHostPort(family.loopback, strconv.Itoa(*dns))
		wg.Go(func() { e.lookups.serve(ctx, local, "dns") })
	}
	wg.Wait()
	<-ctx.Done()
	return nil
}

// addService reads VIP:PORT=ADDR:PORT.
func (e *envoy) addService(text string) error {
	service, target, _ := strings.Cut(text, "=")
	from, err := netip.ParseAddrPort(service)
	if err != nil {
		return fmt.Errorf("service %q: %w", text, err)
	}
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return fmt.Errorf("service %q: %w", text, err)
	}
	e.services[from] = to
	return nil
}

// carry joins a connection to one that it opens for the original destination.
func (e *envoy) carry(conn net.Conn, c carrier) {
	defer conn.Close()
	local := localAddr(conn)
	dst, err := originalDst(conn)
	if err != nil { // no connection that conntrack knows
		dst = local
	}
	target := dst
	if to, ok := c.services[dst]; ok {
		target = to
	}
	told := event{Event: "carried", Listener: c.name, Peer: conn.RemoteAddr().String(), Local: local.String(), OriginalDst: dst.String()}
	if target == local && int(target.Port()) == c.port && c.name != "agent" {
		// Nobody redirected it. As Envoy, it does not call itself, without an end.
		told.Event = "blocked"
		e.out.write(told)
		return
	}
	upstream, err := c.dial(addrPort(conn.RemoteAddr()), target)
	if err != nil {
		told.Event, told.Error = "carry_failed", err.Error()
		e.out.write(told)
		return
	}
	defer upstream.Close()
	told.Addr, told.Remote = upstream.LocalAddr().String(), upstream.RemoteAddr().String()
	e.out.write(told)
	splice(conn, upstream)
}

func dialOut(_, target netip.AddrPort) (net.Conn, error) {
	return net.DialTimeout("tcp", target.String(), dialLimit)
}

// dialApp opens a connection to the app at the pod's own address: from the client's, marked, or from the one by
// which the rules tell the sidecar's own connections.
func (e *envoy) dialApp(client, target netip.AddrPort) (net.Conn, error) {
	if !e.transparent {
		return dialFrom(passthrough(target), target, nil)
	}
	return dialFrom(client.Addr(), target, func(network, _ string, c syscall.RawConn) error {
		return setOptions(c, transparentOption(network), option{unix.SOL_SOCKET, unix.SO_MARK, inboundMark})
	})
}

// passthrough is the address from which the sidecar calls the app itself.
func passthrough(target netip.AddrPort) netip.Addr {
	if target.Addr().Is6() {
		return netip.MustParseAddr("::6")
	}
	return netip.MustParseAddr("127.0.0.6")
}

func dialFrom(source netip.Addr, target netip.AddrPort, control func(string, string, syscall.RawConn) error) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialLimit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), Control: control}
	return dialer.Dial("tcp", target.String())
}

// splice copies both ways until both sides have ended, or one has failed.
func splice(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			from, to := way[0], way[1]
			if _, err := io.Copy(to, from); err != nil {
				_ = from.Close()
				_ = to.Close()
				return
			}
			closeWrite(to)
		})
	}
	wg.Wait()
}

func addrPort(addr net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
