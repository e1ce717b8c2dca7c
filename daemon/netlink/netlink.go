// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package netlink is a socket by which the kernel is asked, and by which nobody else is heard.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// Timeout of an answer is generous: the kernel answers at once.
const Timeout = time.Second

// LongestPacket is what the kernel puts into one packet of a dump at most (af_netlink.c).
const LongestPacket = 32 << 10

// Socket is in the namespace that the thread was in when it was opened.
type Socket struct {
	FD   int
	from unix.RawSockaddrNetlink // of the last packet
	size uint32                  // of from
}

// Open opens a socket of a protocol, such as NETLINK_ROUTE.
func Open(protocol int) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(Timeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("time limit of a netlink socket: %w", err)
	}
	return &Socket{FD: fd}, nil
}

// Close ends the socket, and with it what was not received.
func (s *Socket) Close() { _ = unix.Close(s.FD) }

// Send sends requests to the kernel.
func (s *Socket) Send(requests []byte) error {
	return Retried(func() error { return unix.Send(s.FD, requests, 0) })
}

// Receive returns the kernel's next packet, which is in the room. Others in the pod who may configure its network can send to
// the socket as well: they are not heard, and make nobody wait longer. unix.Recvfrom would make a new address for every packet.
func (s *Socket) Receive(room []byte) ([]byte, error) {
	for begun := time.Now(); ; {
		var n uintptr
		err := Retried(func() error {
			var errno unix.Errno
			s.size = unix.SizeofSockaddrNetlink
			n, _, errno = unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.FD), uintptr(unsafe.Pointer(&room[0])), uintptr(len(room)), unix.MSG_TRUNC,
				uintptr(unsafe.Pointer(&s.from)), uintptr(unsafe.Pointer(&s.size)))
			if errno != 0 {
				return errno
			}
			return nil
		})
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("none within %s", Timeout)
		case err != nil:
			return nil, err
		case s.size != unix.SizeofSockaddrNetlink || s.from.Pid != 0:
			if time.Since(begun) > Timeout {
				return nil, fmt.Errorf("none within %s, while somebody in the pod sent to the socket", Timeout)
			}
		case n > uintptr(len(room)):
			return nil, fmt.Errorf("a packet of %d bytes is longer than a kernel sends", n)
		default:
			return room[:n:n], nil
		}
	}
}

// Retried repeats a system call that a signal ended: the Go runtime sends signals to its threads.
func Retried(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// AppendRequest begins a request (struct nlmsghdr in linux/netlink.h).
func AppendRequest(b []byte, kind, flags uint16, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, unix.NLMSG_HDRLEN)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return binary.NativeEndian.AppendUint32(b, 0) // from: the kernel knows
}

// End sets the length of a request that ends here.
func End(request []byte) { binary.NativeEndian.PutUint32(request, uint32(len(request))) }

// Aligned rounds a length up to where the next attribute or message begins.
func Aligned(length int) int { return (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// AppendAttribute appends struct nlattr, and the value.
func AppendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attributeHeader+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, Aligned(len(value))-len(value))...)
}

// AppendNumber appends an attribute of four bytes.
func AppendNumber(b []byte, kind uint16, n uint32) []byte {
	return AppendAttribute(b, kind, binary.NativeEndian.AppendUint32(nil, n))
}

const attributeHeader = 4

// Each calls fn with every attribute of a list.
func Each(list []byte, fn func(kind uint16, value []byte)) error {
	for len(list) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(list))
		if length < attributeHeader || length > len(list) {
			return errors.New("an attribute is longer than what holds it")
		}
		fn(binary.NativeEndian.Uint16(list[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), list[attributeHeader:length])
		list = list[min(Aligned(length), len(list)):]
	}
	return nil
}

// Attribute returns the value of a list's first attribute of a kind; nil where there is none.
func Attribute(list []byte, kind uint16) (found []byte) {
	_ = Each(list, func(k uint16, value []byte) { // what cannot be read is not there
		if k == kind && found == nil {
			found = value
		}
	})
	return found
}

// Family is a family's number for the kernel's sockets (AF_*), and for nf_tables (NFPROTO_*).
func Family(f rules.Family) uint8 {
	if f == rules.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// ErrMoved is returned for what was changed during a reading, which then mixes two states.
var ErrMoved = errors.New("it was changed while it was read")

// Settled calls attempt until nothing changed during it.
func Settled[T any](attempt func() (T, error)) (T, error) {
	const tries = 10 // each takes far less time than a program needs to write rules again
	for range tries {
		result, err := attempt()
		if !errors.Is(err, ErrMoved) {
			return result, err
		}
	}
	var none T
	return none, fmt.Errorf("%w, %d times in a row: see what keeps writing in this namespace, and try again", ErrMoved, tries)
}

// Message is one of a packet.
type Message struct {
	Kind, Flags uint16
	Seq         uint32
	Body        []byte
}

// Next returns the first message of a packet that has room for one, and what follows it.
func Next(packet []byte) (m Message, rest []byte, err error) {
	length := int(binary.NativeEndian.Uint32(packet))
	if length < unix.NLMSG_HDRLEN || length > len(packet) {
		return m, nil, errors.New("a message is longer than its packet")
	}
	m = Message{binary.NativeEndian.Uint16(packet[4:]), binary.NativeEndian.Uint16(packet[6:]), binary.NativeEndian.Uint32(packet[8:]), packet[unix.NLMSG_HDRLEN:length]}
	return m, packet[min(Aligned(length), len(packet)):], nil
}

// Ends reports whether the message is the last one of an answer.
func (m Message) Ends() bool { return m.Kind == unix.NLMSG_DONE || m.Kind == unix.NLMSG_ERROR }

// Refusal is the error that the last message of an answer tells; nil is none.
func (m Message) Refusal() error {
	if len(m.Body) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(m.Body)); code < 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
