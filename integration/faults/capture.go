// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is the beginning of a conversation: a TCP SYN or a UDP datagram.
type Packet struct {
	At       time.Time
	Protocol string // "tcp" or "udp"
	Src, Dst netip.AddrPort
}

// Capture records what passes a bridge. Whatever is redirected never leaves its pod, so that what is seen
// here was not redirected.
type Capture struct {
	file *os.File
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
	news    chan struct{} // closed and replaced with each packet
	err     error         // why nothing more is recorded
}

// captureBuffer holds a burst of a few thousand packets while the machine is busy.
const captureBuffer = 16 << 20

// NewCapture listens on the bridge until Close. It needs CAP_NET_RAW.
func NewCapture(bridge string) (*Capture, error) {
	link, err := net.InterfaceByName(bridge)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", bridge, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(everyProtocol))
	if err != nil {
		return nil, fmt.Errorf("capture on %s: packet socket: %w", bridge, err)
	}
	// The file polls, so that Close ends a read.
	c := &Capture{file: os.NewFile(uintptr(fd), "capture on "+bridge), done: make(chan struct{}), news: make(chan struct{})}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		// A bridge shows its own socket what it passes from pod to pod only when it is promiscuous.
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(link.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everyProtocol, Ifindex: link.Index}))
	if err != nil {
		c.file.Close()
		return nil, fmt.Errorf("capture on %s: %w", bridge, err)
	}
	go c.read()
	return c, nil
}

// everyProtocol is ETH_P_ALL in network byte order.
const everyProtocol = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8

func (c *Capture) read() {
	defer close(c.done)
	frame := make([]byte, 1<<16)
	for {
		n, err := c.file.Read(frame)
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		if p, ok := parse(frame[:n]); ok {
			c.mu.Lock()
			c.packets = append(c.packets, p)
			close(c.news)
			c.news = make(chan struct{})
			c.mu.Unlock()
		}
	}
}

// Close ends the capture.
func (c *Capture) Close() {
	c.file.Close()
	<-c.done
}

// Mark is a place in the record; what comes later is behind it.
type Mark int

// Mark returns the end of the record.
func (c *Capture) Mark() Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Mark(len(c.packets))
}

// Since returns the packets behind a mark up to now: a datagram to the address beacon, which must be
// reached by the bridge, is sent and waited for, so that everything before it has been recorded. An error
// says that the record has gaps, and proves nothing.
func (c *Capture) Since(ctx context.Context, mark Mark, beacon netip.Addr) ([]Packet, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(beacon, beaconPort).String())
	if err != nil {
		return nil, fmt.Errorf("capture: beacon: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("beacon")); err != nil {
		return nil, fmt.Errorf("capture: beacon: %w", err)
	}
	own, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return nil, fmt.Errorf("capture: beacon: %w", err)
	}
	for next := mark; ; {
		c.mu.Lock()
		packets, news, failed := c.packets, c.news, c.err
		c.mu.Unlock()
		for ; int(next) < len(packets); next++ {
			if p := packets[next]; p.Src == own && p.Dst.Port() == beaconPort {
				return packets[mark:next], c.gaps()
			}
		}
		if failed != nil {
			return nil, fmt.Errorf("capture: %w", failed)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, fmt.Errorf("capture: the beacon was not seen: %w", ctx.Err())
		}
	}
}

// beaconPort is "discard": nobody answers.
const beaconPort = 9

// gaps reports whether the kernel had to leave packets out since the last call.
func (c *Capture) gaps() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("capture: statistics: %w", err)
	}
	var stats *unix.TpacketStats
	var statErr error
	if err := raw.Control(func(fd uintptr) {
		stats, statErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); err != nil {
		return fmt.Errorf("capture: statistics: %w", err)
	}
	if statErr != nil {
		return fmt.Errorf("capture: statistics: %w", statErr)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("capture: the kernel left %d packets out", stats.Drops)
	}
	return nil
}

const (
	etherHeader = 14
	tcpFlags    = 13 // offset in the TCP header
	flagSYN     = 0x02
	flagACK     = 0x10
)

// parse reads an Ethernet frame. IPv6 extension headers are not looked behind: a SYN has none.
func parse(frame []byte) (Packet, bool) {
	if len(frame) < etherHeader {
		return Packet{}, false
	}
	ip := frame[etherHeader:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		if len(ip) < 20 {
			return Packet{}, false
		}
		header := int(ip[0]&0x0f) * 4
		first := binary.BigEndian.Uint16(ip[6:])&0x1fff == 0 // not a later fragment
		if header < 20 || len(ip) < header || !first {
			return Packet{}, false
		}
		return transport(ip[9], netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])), ip[header:])
	case unix.ETH_P_IPV6:
		if len(ip) < 40 {
			return Packet{}, false
		}
		return transport(ip[6], netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), ip[40:])
	}
	return Packet{}, false
}

func transport(protocol byte, src, dst netip.Addr, segment []byte) (Packet, bool) {
	p := Packet{At: time.Now()}
	switch {
	case protocol == unix.IPPROTO_TCP && len(segment) > tcpFlags && segment[tcpFlags]&(flagSYN|flagACK) == flagSYN:
		p.Protocol = "tcp"
	case protocol == unix.IPPROTO_UDP && len(segment) >= 8:
		p.Protocol = "udp"
	default:
		return Packet{}, false
	}
	p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(segment))
	p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(segment[2:]))
	return p, true
}
