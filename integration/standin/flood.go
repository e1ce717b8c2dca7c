// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	burst      = 50                    // attempts without a pause, from the very first act on
	floodPause = 20 * time.Millisecond // after that: twenty such pods share a machine with what they test
	floodLimit = time.Second           // for one attempt
)

// runFlood connects to each address in turn, and with -datagrams sends it one too, again and again. What became of it is to be seen at the
// other end only: a line per connection would be more work than the connection.
func runFlood(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("flood", flag.ContinueOnError)
	datagrams := flags.Bool("datagrams", false, "send a datagram beside each connection")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return errors.Join(errors.New("usage: flood [-datagrams] ADDR..."), err)
	}
	silent := &journal{w: io.Discard}
	for n := 1; ctx.Err() == nil; n++ {
		for _, addr := range flags.Args() {
			if err := attempt(ctx, familyOf("tcp", addr), addr, floodLimit, silent); err != nil && !errors.Is(err, errReported) {
				return fmt.Errorf("flood: %w", err)
			}
			if *datagrams {
				throw(familyOf("udp", addr), addr)
			}
		}
		if n == 1 {
			out.write(event{Event: "attempted"})
		}
		if n > burst {
			select {
			case <-ctx.Done():
			case <-time.After(floodPause):
			}
		}
	}
	return nil
}

// throw sends a datagram and waits for nothing: whoever is not let send hears of it here, and nobody asks.
func throw(network, addr string) {
	if conn, err := net.Dial(network, addr); err == nil {
		_, _ = io.WriteString(conn, ping)
		_ = conn.Close()
	}
}
