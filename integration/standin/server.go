// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"strings"
	"time"
)

// writeTimeout bounds how long a silent client may hold a connection.
const writeTimeout = 5 * time.Second

func runServe(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	udp := flags.Bool("udp", false, "answer datagrams instead of connections")
	rest, err := parseMixed(flags, args, 2, "serve ADDR NAME [--udp]")
	if err != nil {
		return err
	}
	addr, name := rest[0], rest[1]
	if *udp {
		return servePackets(ctx, familyOf("udp", addr), addr, name, out)
	}

	ln, err := new(net.ListenConfig).Listen(ctx, familyOf("tcp", addr), addr)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return acceptLoop(ctx, ln, name, out, func(conn net.Conn) {
		peer := conn.RemoteAddr().String()
		out.write(event{Event: "accepted", Listener: name, Addr: ln.Addr().String(), Peer: peer, Local: conn.LocalAddr().String()})
		replyAndClose(conn, fmt.Sprintf("%s peer=%s\n", name, peer))
	})
}

// familyOf picks the network by the form of addr, so that 0.0.0.0 and [::]
// never share one dual-stack socket.
func familyOf(proto, addr string) string {
	if strings.HasPrefix(addr, "[") {
		return proto + "6"
	}
	return proto + "4"
}

// acceptLoop announces the listener and hands every connection to serve in a
// goroutine of its own until ctx ends.
func acceptLoop(ctx context.Context, ln net.Listener, name string, out *journal, serve func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	out.write(event{Event: "listening", Network: "tcp", Listener: name, Addr: ln.Addr().String()})
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
		go serve(conn)
	}
}

// servePackets answers every datagram with "NAME peer=IP:PORT".
func servePackets(ctx context.Context, network, addr, name string, out *journal) error {
	pc, err := new(net.ListenConfig).ListenPacket(ctx, network, addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = pc.Close() })
	defer stop()
	out.write(event{Event: "listening", Network: "udp", Listener: name, Addr: pc.LocalAddr().String()})

	buf := make([]byte, 2048)
	for {
		_, peer, err := pc.ReadFrom(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive on %s: %w", pc.LocalAddr(), err)
		}
		out.write(event{Event: "datagram", Listener: name, Addr: pc.LocalAddr().String(), Peer: peer.String()})
		_, _ = pc.WriteTo(fmt.Appendf(nil, "%s peer=%s\n", name, peer), peer)
	}
}

func replyAndClose(conn net.Conn, line string) {
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = conn.Write([]byte(line))
}
