// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// runLookup asks a name server for names in turn, several times at once, each time from a new socket and
// never twice. Every query has to be answered, by nobody but the server that was asked.
func runLookup(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("lookup", flag.ContinueOnError)
	count := flags.Int("count", 1, "how many queries")
	parallel := flags.Int("parallel", 1, "how many at once")
	usage := "lookup [--count N] [--parallel N] NETWORK SERVER NAME..."
	if err := flags.Parse(args); err != nil || flags.NArg() < 3 {
		return errors.Join(errors.New("usage: "+usage), err)
	}
	network, server, wanted := flags.Arg(0), flags.Arg(1), flags.Args()[2:]

	var next, answered atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range *parallel {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(*count) && ctx.Err() == nil; i = next.Add(1) - 1 {
				name := wanted[int(i)%len(wanted)]
				ip, err := lookup(network, server, ask(uint16(i), name, dnsA))
				if err != nil {
					out.write(event{Event: "lookup_failed", Network: network, Addr: name, Error: err.Error()})
					continue
				}
				answered.Add(1)
				if int(i) < len(wanted) {
					out.write(event{Event: "found", Network: network, Addr: name, Reply: ip.String()})
				}
			}
		})
	}
	wg.Wait()
	out.write(event{Event: "looked_up", Network: network, Addr: server, Reply: fmt.Sprintf("%d of %d answered", answered.Load(), *count),
		Started: began.UnixNano()})
	if answered.Load() != int64(*count) {
		return errReported
	}
	return nil
}

// lookup sends one query from a new socket.
func lookup(network, server string, query []byte) (netip.Addr, error) {
	if !isUDP(network) {
		conn, err := net.DialTimeout(network, server, lookupLimit)
		if err != nil {
			return netip.Addr{}, err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(lookupLimit))
		if err := writeStream(conn, query); err != nil {
			return netip.Addr{}, err
		}
		answer, err := readStream(conn)
		if err != nil {
			return netip.Addr{}, err
		}
		return address(query, answer)
	}
	to, err := net.ResolveUDPAddr(network, server)
	if err != nil {
		return netip.Addr{}, err
	}
	// Not connected: the kernel would hide an answer that comes from elsewhere.
	socket, err := net.ListenPacket(network, "")
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = socket.Close() }()
	_ = socket.SetDeadline(time.Now().Add(lookupLimit))
	if _, err := socket.WriteTo(query, to); err != nil {
		return netip.Addr{}, err
	}
	answer := make([]byte, dnsLargest)
	size, from, err := socket.ReadFrom(answer)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("from %s: %w", socket.LocalAddr(), err)
	}
	if from.String() != to.String() {
		return netip.Addr{}, fmt.Errorf("the answer is from %s", from)
	}
	return address(query, answer[:size])
}
