// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// ping is what a UDP client sends. It cannot be taken for a DNS query.
const ping = "meshnetd-ping\n"

func runConnect(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("connect", flag.ContinueOnError)
	uid := flags.Int("uid", -1, "user id to switch to before connecting")
	gid := flags.Int("gid", -1, "group id to switch to before connecting")
	timeout := flags.Duration("timeout", 5*time.Second, "limit for connecting and for the reply")
	exit := flags.Bool("exit", false, "exit after the attempt: 0 connected, 1 failed")
	target, err := parseMixed(flags, args, 2, "connect NETWORK ADDR [--uid N] [--gid N] [--timeout D] [--exit]")
	if err != nil {
		return err
	}
	if err := switchUser(*uid, *gid); err != nil {
		return err
	}

	err = attempt(ctx, target[0], target[1], *timeout, out)
	if *exit {
		return err
	}
	<-ctx.Done()
	return nil
}

func runDial(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("dial", flag.ContinueOnError)
	uid := flags.Int("uid", -1, "user id to switch to before connecting")
	gid := flags.Int("gid", -1, "group id to switch to before connecting")
	timeout := flags.Duration("timeout", 5*time.Second, "limit for connecting and for the reply")
	target, err := parseMixed(flags, args, 2, "dial NETWORK ADDR [--uid N] [--gid N] [--timeout D]")
	if err != nil {
		return err
	}
	if err := switchUser(*uid, *gid); err != nil {
		return err
	}
	return attempt(ctx, target[0], target[1], *timeout, out)
}

// switchUser changes to the ids that are not negative, the group first since
// changing the user takes the right to do so away.
func switchUser(uid, gid int) error {
	if gid >= 0 {
		if err := syscall.Setresgid(gid, gid, gid); err != nil {
			return fmt.Errorf("cannot switch to group %d (needs CAP_SETGID): %w", gid, err)
		}
	}
	if uid >= 0 {
		if err := syscall.Setresuid(uid, uid, uid); err != nil {
			return fmt.Errorf("cannot switch to user %d (needs CAP_SETUID): %w", uid, err)
		}
	}
	return nil
}

// attempt connects once, without any retry, and reports what came back.
func attempt(ctx context.Context, network, addr string, timeout time.Duration, out *journal) error {
	started := time.Now()
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		out.write(event{Event: "failed", Network: network, Addr: addr, Error: err.Error(), Started: started.UnixNano()})
		return errReported
	}
	defer conn.Close()
	connected := time.Now()

	reply, err := readReply(conn, network, timeout)
	e := event{
		Event: "connected", Network: network, Addr: addr, Reply: reply,
		Remote: conn.RemoteAddr().String(), Local: conn.LocalAddr().String(),
		Started: started.UnixNano(), At: connected.UnixNano(),
	}
	if err != nil {
		e.Error = err.Error()
		// A UDP socket "connects" to anything; only the answer counts.
		if isUDP(network) {
			e.Event = "failed"
		}
	}
	out.write(e)
	if e.Event == "failed" {
		return errReported
	}
	return nil
}

func readReply(conn net.Conn, network string, timeout time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", fmt.Errorf("set deadline: %w", err)
	}
	if isUDP(network) {
		if _, err := io.WriteString(conn, ping); err != nil {
			return "", fmt.Errorf("send ping: %w", err)
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return strings.TrimSpace(line), fmt.Errorf("read reply: %w", err)
	}
	return strings.TrimSpace(line), nil
}

func isUDP(network string) bool { return strings.HasPrefix(network, "udp") }
