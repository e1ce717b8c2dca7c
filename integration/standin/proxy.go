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

// proxy stands in for the listeners of the sidecar.
type proxy struct {
	passthrough bool
	out         *journal
}

func runProxy(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	outbound := flags.Int("outbound", 15001, "port for redirected outbound connections")
	inbound := flags.Int("inbound", 15006, "port for redirected inbound connections")
	dns := flags.Int("dns", 15053, "port for redirected DNS, UDP and TCP")
	transparent := flags.Bool("transparent", false, "inbound listener with IP_TRANSPARENT, for TPROXY")
	passthrough := flags.Bool("passthrough", false, "relay inbound connections to the application")
	usage := "proxy [--outbound P] [--inbound P] [--dns P] [--transparent] [--passthrough]"
	if _, err := parseMixed(flags, args, 0, usage); err != nil {
		return err
	}

	p := &proxy{passthrough: *passthrough, out: out}
	var wg sync.WaitGroup
	for _, family := range []string{"4", "6"} {
		host := map[string]string{"4": "0.0.0.0", "6": "::"}[family]
		addr := func(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
		// As Istio's agent does: an answer must leave from the address that the redirected query went to.
		local := net.JoinHostPort(map[string]string{"4": "127.0.0.1", "6": "::1"}[family], strconv.Itoa(*dns))
		wg.Go(func() { p.listen(ctx, "tcp"+family, addr(*outbound), "outbound", false) })
		wg.Go(func() { p.listen(ctx, "tcp"+family, addr(*inbound), "inbound", *transparent) })
		wg.Go(func() { p.listen(ctx, "tcp"+family, local, "dns", false) })
		wg.Go(func() {
			if err := servePackets(ctx, "udp"+family, local, "dns", out); err != nil {
				out.write(event{Event: "listen_failed", Listener: "dns", Addr: local, Error: err.Error()})
			}
		})
	}
	wg.Wait()
	<-ctx.Done()
	return nil
}

// listenOrTell serves one address. A failure is only reported: a namespace without
// IPv6 must not stop the IPv4 listeners.
func listenOrTell(ctx context.Context, network, addr, name string, transparent bool, out *journal, serve func(net.Conn)) {
	config := net.ListenConfig{}
	if transparent {
		config.Control = func(network, _ string, c syscall.RawConn) error { return setOptions(c, transparentOption(network)) }
	}
	ln, err := config.Listen(ctx, network, addr)
	if err == nil {
		err = acceptLoop(ctx, ln, name, out, serve)
	}
	if err != nil {
		out.write(event{Event: "listen_failed", Listener: name, Addr: addr, Error: err.Error()})
	}
}

func (p *proxy) listen(ctx context.Context, network, addr, name string, transparent bool) {
	listenOrTell(ctx, network, addr, name, transparent, p.out, func(conn net.Conn) { p.serve(conn, name) })
}

func (p *proxy) serve(conn net.Conn, name string) {
	dst, err := originalDst(conn)
	e := event{Event: "accepted", Listener: name, Peer: conn.RemoteAddr().String(), Local: conn.LocalAddr().String()}
	if err != nil {
		// Without conntrack entry (TPROXY, no redirection) it is the local address.
		dst = localAddr(conn)
	}
	e.OriginalDst = dst.String()
	p.out.write(e)

	if p.passthrough && name == "inbound" {
		p.relay(conn, dst)
		return
	}
	replyAndClose(conn, fmt.Sprintf("%s original_dst=%s\n", name, dst))
}

// relay forwards to the application over loopback, from the source address
// by which the sidecar's own connections are told apart.
func (p *proxy) relay(client net.Conn, dst netip.AddrPort) {
	defer client.Close()
	target, source := "127.0.0.1", "127.0.0.6"
	if dst.Addr().Is6() {
		target, source = "::1", "::6"
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	app, err := dialer.Dial("tcp", net.JoinHostPort(target, strconv.Itoa(int(dst.Port()))))
	if err != nil {
		p.out.write(event{Event: "relay_failed", OriginalDst: dst.String(), Error: err.Error()})
		return
	}
	defer app.Close()

	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(app, client)
		closeWrite(app)
		close(done)
	}()
	_, _ = io.Copy(client, app)
	closeWrite(client)
	// The application has nothing more to say; a client that keeps its half
	// open must not hold the relay for ever.
	_ = client.SetReadDeadline(time.Now().Add(time.Second))
	<-done
}

func closeWrite(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// option is a socket option to set.
type option struct{ level, name, value int }

// transparentOption lets a socket have an address that is not the machine's.
func transparentOption(network string) option {
	if strings.HasSuffix(network, "6") {
		return option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
	}
	return option{unix.SOL_IP, unix.IP_TRANSPARENT, 1}
}

func setOptions(c syscall.RawConn, options ...option) error {
	var setErr error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			if setErr = unix.SetsockoptInt(int(fd), o.level, o.name, o.value); setErr != nil {
				return
			}
		}
	})
	if err != nil {
		return fmt.Errorf("access socket: %w", err)
	}
	if setErr != nil {
		return fmt.Errorf("set a socket option (IP_TRANSPARENT and SO_MARK need CAP_NET_ADMIN): %w", setErr)
	}
	return nil
}
