// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// runEcho is an application that says who called it, and then gives back what it is sent.
func runEcho(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil || flags.NArg() < 2 {
		return errors.Join(errors.New("usage: echo NAME ADDR..."), err)
	}
	name, addrs := flags.Arg(0), flags.Args()[1:]
	var wg sync.WaitGroup
	for _, addr := range addrs {
		wg.Go(func() {
			listenOrTell(ctx, familyOf("tcp", addr), addr, name, false, out, func(conn net.Conn) { greetAndEcho(conn, name, out) })
		})
	}
	wg.Wait()
	<-ctx.Done()
	return nil
}

func greetAndEcho(conn net.Conn, name string, out *journal) {
	defer conn.Close()
	peer, local := conn.RemoteAddr().String(), conn.LocalAddr().String()
	out.write(event{Event: "accepted", Listener: name, Peer: peer, Local: local})
	if _, err := fmt.Fprintf(conn, "%s peer=%s local=%s\n", name, peer, local); err != nil {
		return
	}
	if _, err := io.Copy(conn, conn); err == nil {
		closeWrite(conn)
	}
}

// runTalk connects once, to the first of a name's addresses that answers, and sends as much as it is told
// while it reads what comes back.
func runTalk(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("talk", flag.ContinueOnError)
	size := flags.Int("bytes", 1<<20, "how much to send, and to get back")
	limit := flags.Duration("timeout", 10*time.Second, "for all of it")
	server := flags.String("resolver", "", "name server to ask, where ADDR has a name")
	patience := flags.Duration("fallback-delay", 0, "how long to try the first family before the second is tried too (default 300ms)")
	target, err := parseMixed(flags, args, 2, "talk NETWORK ADDR [--bytes N] [--timeout D] [--resolver ADDR] [--fallback-delay D]")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	dialer := net.Dialer{FallbackDelay: *patience, Resolver: &net.Resolver{PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, *server)
		}}}
	e := event{Event: "talked", Network: target[0], Addr: target[1], Started: time.Now().UnixNano()}
	conn, err := dialer.DialContext(ctx, target[0], target[1])
	if err == nil {
		defer conn.Close()
		e.At, e.Local, e.Remote = time.Now().UnixNano(), conn.LocalAddr().String(), conn.RemoteAddr().String()
		deadline, _ := ctx.Deadline()
		_ = conn.SetDeadline(deadline)
		e.Reply, err = converse(conn, *size)
	}
	if err != nil {
		e.Event, e.Error = "failed", err.Error()
	}
	out.write(e)
	if err != nil {
		return errReported
	}
	return nil
}

// converse returns how the other side greets, when that has given back every byte it was sent.
func converse(conn net.Conn, size int) (greeting string, err error) {
	from := bufio.NewReader(conn)
	greeting, err = from.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read greeting: %w", err)
	}
	greeting = strings.TrimSpace(greeting)
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i % 251) // no power of two, so that a lost block shows
	}
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		closeWrite(conn)
		failed <- err
	}()
	got, err := io.ReadAll(from)
	if writeErr := <-failed; writeErr != nil {
		return greeting, fmt.Errorf("send %d bytes: %w", size, writeErr)
	}
	if err != nil {
		return greeting, fmt.Errorf("read what comes back: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return greeting, fmt.Errorf("%d bytes came back of %d, or others", len(got), size)
	}
	return greeting, nil
}
