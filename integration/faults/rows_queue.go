// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// queueRows are about the runtime's queue of plugins, which it takes one after the other.
func queueRows() []Row {
	return []Row{
		{Fault: "meshnetd restarted behind three NRI clients that say nothing, and come again", begin: behindSilent, end: itsTurn},
	}
}

// behindSilent starts meshnetd when three others are before it in the queue.
func behindSilent(ctx context.Context, s *stage) error {
	s.daemon.Kill()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var clients sync.WaitGroup
	s.later(func() { cancel(); clients.Wait() })
	for range 3 {
		first := make(chan error, 1)
		clients.Go(func() { silent(ctx, s.lab.NRISocket(), first) })
		if err := <-first; err != nil {
			return err
		}
	}
	var err error
	s.daemon, err = s.startDaemon(ctx, "nri_waiting")
	if err != nil {
		return err
	}
	if !strings.Contains(s.daemon.Log(), "waiting in the runtime's queue") {
		return errors.New("meshnetd does not know that it waits in a queue")
	}
	return nil
}

// silent connects, says nothing until it is thrown out, and connects again. How the first attempt went goes to first.
func silent(ctx context.Context, socket string, first chan<- error) {
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			err = fmt.Errorf("a client that says nothing: %w", err)
		}
		select {
		case first <- err:
		default:
		}
		if err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		_, _ = io.Copy(io.Discard, conn)
		stop()
		_ = conn.Close()
	}
}

func itsTurn(ctx context.Context, s *stage) error {
	_, err := s.daemon.Wait(ctx, func(l lab.Line) bool { return l.Event == "nri_connected" })
	return err
}
