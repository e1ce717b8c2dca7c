// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// answers is what Linkerd's linkerd-network-validator asks of a pod: a connection to an address that nobody has must
// come to the proxy's outbound port, where it listens itself, and bring back what only it can say.
type answers struct {
	port int // the proxy's outbound one
	six  bool
}

// run dials once.
func (a answers) run(ctx context.Context) (event, error) {
	local, probe := netip.IPv4Unspecified(), netip.MustParseAddrPort("1.1.1.1:20001")
	if a.six {
		local, probe = netip.IPv6Unspecified(), netip.MustParseAddrPort("[fd00::1]:20001")
	}
	addr := net.JoinHostPort(local.String(), strconv.Itoa(a.port))
	listener, err := new(net.ListenConfig).Listen(ctx, familyOf("tcp", addr), addr)
	if err != nil {
		return event{}, fmt.Errorf("the proxy's port cannot be listened on: %w", err)
	}
	defer func() { _ = listener.Close() }()
	token := fmt.Sprintf("%016x", rand.Uint64())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			replyAndClose(conn, token+"\n")
		}
	}()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", probe.String())
	if err != nil {
		return event{}, fmt.Errorf("nothing answers at %s: %w", probe, err)
	}
	defer conn.Close()
	limit, _ := ctx.Deadline()
	_ = conn.SetDeadline(limit)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return event{}, fmt.Errorf("read what %s answers: %w", probe, err)
	}
	if answer = strings.TrimSpace(answer); answer != token {
		return event{}, fmt.Errorf("somebody else answers at %s: %q", probe, answer)
	}
	return event{Event: "validated", Listener: strconv.Itoa(a.port), Remote: conn.RemoteAddr().String()}, nil
}
