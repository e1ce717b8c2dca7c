// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// establish opens the connections that are to be there before the rules, and gives them their marks.
func (g *gallery) establish(shots []*shot) error {
	var waiting []*shot
	for _, s := range shots {
		if s.way != byData || s.cannot != "" {
			continue
		}
		if err := g.from(s).do(func() error { return g.open(s) }); err != nil {
			return fmt.Errorf("%s: %w", s.packet, err)
		}
		waiting = append(waiting, s)
		if s.packet.Protocol == rules.UDP {
			if err := s.write(); err != nil {
				return err
			}
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	if err := g.accept(waiting); err != nil {
		return err
	}
	return g.pod.do(func() error {
		table, err := connections()
		if err != nil {
			return err
		}
		for _, s := range waiting {
			found := table[connectionKey{s.packet.Protocol, s.packet.Source, s.packet.Destination}]
			if len(found) != 1 {
				return fmt.Errorf("%s: %d connections in the table", s.packet, len(found))
			}
			if err := found[0].remember(s.packet.ConnMark); err != nil {
				return err
			}
		}
		return nil
	})
}

// accept waits for the other end of each connection. A datagram is answered, which makes it one.
func (g *gallery) accept(waiting []*shot) error {
	all := &listeners{all: slices.Concat(g.inPod.all, g.inPeer.all)}
	for left := len(waiting); left > 0; {
		arrivals, err := all.take()
		if err != nil {
			return err
		}
		for _, a := range arrivals {
			i := slices.IndexFunc(waiting, func(s *shot) bool {
				return a.protocol == s.packet.Protocol && a.source == s.packet.Source && !s.accepted
			})
			if i < 0 {
				if a.fd >= 0 {
					abort(a.fd)
				}
				continue
			}
			if err := waiting[i].acceptedAs(a); err != nil {
				return fmt.Errorf("%s: %w", waiting[i].packet, err)
			}
			left--
		}
		if left == 0 {
			break
		}
		if err := all.wait(patience); err != nil {
			i := slices.IndexFunc(waiting, func(s *shot) bool { return !s.accepted })
			return fmt.Errorf("%s: not accepted: %w", waiting[i].packet, err)
		}
	}
	return nil
}

// acceptedAs makes the other end of a connection what it is to be, or answers a datagram.
func (s *shot) acceptedAs(a arrival) error {
	s.accepted = true
	if a.fd < 0 {
		return a.answer()
	}
	s.server = a.fd
	if s.packet.Transparent {
		return nil
	}
	level, name := unix.SOL_IP, unix.IP_TRANSPARENT
	if a.source.Addr().Is6() {
		level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if err := unix.SetsockoptInt(a.fd, level, name, 0); err != nil {
		return fmt.Errorf("make a socket an ordinary one: %w", err)
	}
	return nil
}
