// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"sync"
	"time"
)

// names is a name server. It asks another one, by sockets of its own, for the names it does not know.
type names struct {
	zone     zone
	upstream string // "" for none
	out      *journal
}

func runNames(ctx context.Context, args []string, out *journal) error {
	n := names{zone: zone{}, out: out}
	flags := flag.NewFlagSet("names", flag.ContinueOnError)
	flags.Func("name", "NAME=ADDR, a name that is known", n.zone.add)
	addr, err := parseMixed(flags, args, 1, "names ADDR [--name NAME=ADDR]...")
	if err != nil {
		return err
	}
	n.serve(ctx, addr[0], "names")
	<-ctx.Done()
	return nil
}

// serve answers on an address, by UDP and TCP.
func (n names) serve(ctx context.Context, addr, listener string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		listenOrTell(ctx, familyOf("tcp", addr), addr, listener, false, n.out, func(conn net.Conn) {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(dialLimit))
			query, err := readStream(conn)
			if err == nil {
				err = n.reply(query, listener, "tcp", conn.RemoteAddr(), func(answer []byte) error { return writeStream(conn, answer) })
			}
			n.tell(listener, err)
		})
	})
	wg.Go(func() { n.tell(listener, n.servePackets(ctx, addr, listener)) })
	wg.Wait()
}

func (n names) tell(listener string, err error) {
	if err != nil {
		n.out.write(event{Event: "lookup_failed", Listener: listener, Error: err.Error()})
	}
}

func (n names) servePackets(ctx context.Context, addr, listener string) error {
	socket, err := new(net.ListenConfig).ListenPacket(ctx, familyOf("udp", addr), addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	n.out.write(event{Event: "listening", Network: "udp", Listener: listener, Addr: socket.LocalAddr().String()})
	for {
		query := make([]byte, dnsLargest)
		size, peer, err := socket.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			n.tell(listener, n.reply(query[:size], listener, "udp", peer, func(answer []byte) error {
				_, err := socket.WriteTo(answer, peer)
				return err
			}))
		}()
	}
}

// reply answers a query itself or with what the other server says, over the protocol it came by.
func (n names) reply(query []byte, listener, network string, peer net.Addr, send func([]byte) error) error {
	name, _, _, err := question(query)
	if err != nil {
		return err
	}
	told := event{Event: "query", Listener: listener, Network: network, Peer: peer.String(), Addr: name}
	answer, known, err := n.zone.answer(query)
	if err == nil && !known && n.upstream != "" {
		told.Event = "forwarded"
		answer, told.Local, err = n.forward(query, network)
	}
	if err != nil {
		return fmt.Errorf("%s for %s: %w", name, peer, err)
	}
	n.out.write(told)
	return send(answer)
}

// forward asks the other server, and returns from which address it did.
func (n names) forward(query []byte, network string) (answer []byte, local string, err error) {
	conn, err := net.DialTimeout(network, n.upstream, lookupLimit)
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(lookupLimit))
	if network == "tcp" {
		if err := writeStream(conn, query); err != nil {
			return nil, "", err
		}
		answer, err = readStream(conn)
	} else {
		if _, err := conn.Write(query); err != nil {
			return nil, "", err
		}
		answer = make([]byte, dnsLargest)
		var size int
		size, err = conn.Read(answer)
		answer = answer[:size]
	}
	return answer, conn.LocalAddr().String(), err
}
