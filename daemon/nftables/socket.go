// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// netfilter is a netlink socket for nf_tables in the namespace that the thread was in when it was
// opened.
type netfilter struct {
	*netlink.Socket
	seq     uint32 // of the next request
	room    []byte // where answers are received, one behind the other
	longest int    // packet, in bytes
	most    bound  // of what is read between two calls of forget
	got     int    // bytes that were read since
	held    int    // of elements
}

func dialNetfilter() (*netfilter, error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("for nf_tables: %w", err)
	}
	// A refusal need not repeat the change that it is about.
	if err := unix.SetsockoptInt(s.FD, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
		s.Close()
		return nil, fmt.Errorf("short answers of nf_tables: %w", err)
	}
	room := rooms.Get().(*[]byte)
	return &netfilter{Socket: s, seq: 1, room: (*room)[:0], longest: netlink.LongestPacket, most: standard}, nil
}

// reopen leaves an answer that has not been read to its end, and keeps what was read. The thread must be in the namespace.
func (c *netfilter) reopen() error {
	fresh, err := dialNetfilter()
	if err != nil {
		return err
	}
	c.Socket, fresh.Socket = fresh.Socket, c.Socket
	fresh.close()
	return nil
}

// close ends the socket, and with it what was read from it.
func (c *netfilter) close() {
	c.Close()
	if cap(c.room) <= roomKept {
		rooms.Put(&c.room)
	}
}

// rooms are buffers for answers and changes. A new one is large enough for an ordinary pod.
var rooms = sync.Pool{New: func() any {
	room := make([]byte, 0, 4*netlink.LongestPacket)
	return &room
}}

// roomKept bounds what is kept for the next one.
const roomKept = 1 << 20

// forget drops what was read.
func (c *netfilter) forget() { c.room, c.got, c.held = c.room[:0], 0, 0 }

// limit returns what one look reads at most.
func (c *netfilter) limit() bound { return c.most }

// spare returns room behind what was read.
func (c *netfilter) spare(length int) []byte {
	c.room = slices.Grow(c.room, length)
	begin := len(c.room)
	c.room = c.room[:begin+length]
	return c.room[begin:begin:len(c.room)]
}

// await sends an empty transaction. The kernel makes one at a time, so any earlier one is over when this returns. Only a
// failure is answered, and the next request receives that.
func (c *netfilter) await() error {
	b := newBatch(nil)
	defer b.release()
	if err := c.Send(b.sealed(c.seq)); err != nil {
		return fmt.Errorf("wait for nf_tables: %w", err)
	}
	return nil
}

// transact makes the changes of a batch, all or none, and fails with netlink.ErrMoved if the namespace is at another
// generation than the batch is for. The kernel acknowledges the last change only, or says which ones it does
// not make.
func (c *netfilter) transact(b *batch) error {
	first := c.seq
	c.seq += uint32(b.changes())
	wire := b.sealed(first)
	if err := c.roomFor(len(wire)); err != nil {
		return err
	}
	if err := c.Send(wire); err != nil {
		return fmt.Errorf("send %d changes (%d bytes) to nf_tables: %w", b.changes(), len(wire), err)
	}
	c.forget()
	last := c.seq - 1
	for {
		packet, err := c.receive()
		if err != nil {
			return fmt.Errorf("answer of nf_tables to %d changes: %w", b.changes(), err)
		}
		seq, no, err := verdictOf(packet)
		if err != nil {
			return err
		}
		if int32(seq-first) < 0 {
			continue // of an earlier request
		}
		switch {
		case errors.Is(no, unix.ERESTART): // the namespace is at another generation
			return netlink.ErrMoved
		case no != nil:
			return b.refusal(int(seq-first), no)
		case seq == last:
			return nil
		}
	}
}

// verdictOf reads a packet that acknowledges the change with that number, or says why it is not made.
func verdictOf(packet []byte) (seq uint32, refused error, err error) {
	var m netlink.Message
	if len(packet) >= unix.NLMSG_HDRLEN {
		m, _, err = netlink.Next(packet)
	}
	if err != nil || m.Kind != unix.NLMSG_ERROR || len(m.Body) < 4 {
		return 0, nil, errors.New("an answer of nf_tables cannot be read: it is neither yes nor no")
	}
	return m.Seq, m.Refusal(), nil
}

// roomFor makes room for a packet that is longer than what a socket sends otherwise.
func (c *netfilter) roomFor(length int) error {
	const usual = 64 << 10 // any kernel allows more
	if length < usual {
		return nil
	}
	// Twice, since the kernel counts its own bookkeeping too. The limit of the machine, net.core.wmem_max, does not
	// hold for the host's administrator, only for that of a user namespace.
	err := unix.SetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*length)
	if errors.Is(err, unix.EPERM) && unix.SetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*length) == nil {
		if room, _ := unix.GetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_SNDBUF); room >= 2*length {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("room to send %d bytes to nf_tables: %w", length, err)
	}
	return nil
}

// ask sends a request about a family, or all, and of it what attributes name. Messages stay valid when the next request is
// sent.
func (c *netfilter) ask(request uint16, family byte, attributes []byte) ([]message, error) {
	defer func() { c.seq++ }()
	flags := uint16(unix.NLM_F_DUMP)
	if request == getGen { // there is one only
		flags = 0
	}
	m := append(appendHeader(make([]byte, 0, 64), request, flags, c.seq, family, 0), attributes...)
	netlink.End(m)
	if err := c.Send(m); err != nil {
		return nil, fmt.Errorf("ask nf_tables: %w", err)
	}
	a := answer{seq: c.seq}
	for !a.done {
		packet, err := c.receive()
		if err == nil {
			err = a.add(packet)
		}
		if c.got += len(packet); err == nil && request == getElements {
			c.held += len(packet)
			err = check("bytes of elements", c.held, c.most.elements)
		}
		if err == nil {
			err = errors.Join(check("bytes", c.got, c.most.bytes), check("objects", len(a.messages), c.most.objects))
		}
		if errors.Is(err, ErrTooMuch) { // what is left of the answer goes with the socket
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("answer of nf_tables to request %#x: %w", request, err)
		}
	}
	return a.result()
}

// appendHeader writes the header of a request and a struct nfgenmsg (linux/netfilter/nfnetlink.h). The length is still to be
// filled in if more follows.
func appendHeader(b []byte, kind, flags uint16, seq uint32, family byte, resource uint16) []byte {
	begin := len(b)
	b = append(netlink.AppendRequest(b, kind, flags, seq), family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	netlink.End(b[begin:])
	return b
}

// nfgenmsg is the length of struct nfgenmsg: family, version, two bytes of resource.
const nfgenmsg = 4

// receive returns the next packet of the kernel.
func (c *netfilter) receive() ([]byte, error) {
	c.room = slices.Grow(c.room, c.longest)
	packet, err := c.Receive(c.room[len(c.room):cap(c.room)])
	c.room = c.room[:len(c.room)+len(packet)]
	return packet, err
}

// answer collects the packets that answer one request.
type answer struct {
	seq         uint32
	messages    []message
	done        bool
	interrupted bool // the tables changed during the dump, so that some of it may be missing
}

// result fails with netlink.ErrMoved where some of the answer may be missing.
func (a *answer) result() ([]message, error) {
	if a.interrupted {
		return nil, netlink.ErrMoved
	}
	return a.messages, nil
}

// add takes the messages out of a packet; those that answer an earlier request are left out.
func (a *answer) add(packet []byte) error {
	const short = 128 // bytes of a message
	a.messages = slices.Grow(a.messages, len(packet)/short)
	for len(packet) >= unix.NLMSG_HDRLEN && !a.done {
		m, rest, err := netlink.Next(packet)
		if err != nil {
			return err
		}
		if packet = rest; m.Seq != a.seq {
			continue
		}
		a.interrupted = a.interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		switch {
		case m.Ends():
			a.done = true
			if err := m.Refusal(); err != nil {
				return err
			}
		case len(m.Body) < nfgenmsg:
			return errors.New("a message is too short")
		default:
			a.messages = append(a.messages, message{family: m.Body[0], attributes: m.Body[nfgenmsg:]})
			a.done = m.Flags&unix.NLM_F_MULTI == 0
		}
	}
	return nil
}
