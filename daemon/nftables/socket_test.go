// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/integration/plans"
)

// packet is a message of a kernel that answers request 7.
func packet(kind, flags uint16, body ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, 7)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, body...)
	return append(b, make([]byte, netlink.Aligned(len(b))-len(b))...)
}

func failure(errno unix.Errno) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
}

func TestAnswer(t *testing.T) {
	const multi, interrupted = unix.NLM_F_MULTI, unix.NLM_F_DUMP_INTR
	object := packet(0xa00, multi, 2, 0, 0, 0, 'o')
	done := packet(unix.NLMSG_DONE, multi, failure(0)...)
	earlier := packet(unix.NLMSG_ERROR, 0, failure(unix.EPERM)...)
	binary.NativeEndian.PutUint32(earlier[8:], 6)
	long := packet(0xa00, multi, 2, 0, 0, 0)
	binary.NativeEndian.PutUint32(long, 21)
	short := packet(0xa00, multi, 2, 0, 0, 0)
	binary.NativeEndian.PutUint32(short, 15)
	for name, tt := range map[string]struct {
		packets     [][]byte
		messages    int
		done        bool
		interrupted bool
		err         string
	}{
		"dump":                       {[][]byte{object, object, done}, 2, true, false, ""},
		"dump in one packet":         {[][]byte{append(append([]byte{}, object...), done...)}, 1, true, false, ""},
		"not all there":              {[][]byte{object}, 1, false, false, ""},
		"nothing there":              {[][]byte{done}, 0, true, false, ""},
		"done without a code":        {[][]byte{packet(unix.NLMSG_DONE, multi)}, 0, true, false, ""},
		"one message":                {[][]byte{packet(0xa0f, 0, 0, 0, 0, 1)}, 1, true, false, ""},
		"what follows the end":       {[][]byte{append(append([]byte{}, done...), object...)}, 0, true, false, ""},
		"interrupted":                {[][]byte{packet(0xa00, multi|interrupted, 2, 0, 0, 0), object, done}, 2, true, true, ""},
		"interrupted, seen at last":  {[][]byte{object, packet(unix.NLMSG_DONE, multi|interrupted, failure(0)...)}, 1, true, true, ""},
		"refused":                    {[][]byte{packet(unix.NLMSG_ERROR, 0, failure(unix.EPERM)...)}, 0, true, false, "operation not permitted"},
		"breaks off":                 {[][]byte{object, packet(unix.NLMSG_DONE, multi, failure(unix.ENOMEM)...)}, 1, true, false, "cannot allocate memory"},
		"of an earlier request":      {[][]byte{earlier, object, done}, 1, true, false, ""},
		"longer than its packet":     {[][]byte{long}, 0, false, false, "longer than its packet"},
		"shorter than its header":    {[][]byte{short}, 0, false, false, "longer than its packet"},
		"shorter than what it names": {[][]byte{packet(0xa00, multi, 2, 0)}, 0, false, false, "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			a := answer{seq: 7}
			var err error
			for _, p := range tt.packets {
				if err = a.add(p); err != nil {
					break
				}
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if messages, err := a.result(); errors.Is(err, netlink.ErrMoved) != tt.interrupted || len(messages) > 0 && tt.interrupted {
				t.Errorf("the result is %d messages, %v", len(messages), err)
			}
			if len(a.messages) != tt.messages || a.done != tt.done || a.interrupted != tt.interrupted {
				t.Errorf("got %d messages, done %t, interrupted %t", len(a.messages), a.done, a.interrupted)
			}
		})
	}
}

// Whoever may configure the pod's network can send to the socket, and could say that there is nothing.
func TestOnlyTheKernelAnswers(t *testing.T) {
	s := newSandbox(t)
	c, other := s.dial(t), s.dial(t)
	if _, err := c.ask(getGen, unix.NFPROTO_UNSPEC, nil); err != nil { // which gives the socket its port
		t.Fatal(err)
	}
	name, err := unix.Getsockname(c.FD)
	if err != nil {
		t.Fatal(err)
	}
	lie := packet(unix.NLMSG_DONE, unix.NLM_F_MULTI, failure(0)...)
	binary.NativeEndian.PutUint32(lie[8:], c.seq)
	if err := unix.Sendto(other.FD, lie, 0, name); err != nil {
		t.Fatal(err)
	}
	if messages, err := c.ask(getGen, unix.NFPROTO_UNSPEC, nil); err != nil || len(messages) != 1 {
		t.Errorf("got %d messages, %v; want what the kernel said", len(messages), err)
	}
}

// A packet that does not fit is not taken for a shorter one.
func TestLongPacket(t *testing.T) {
	c := newSandbox(t).dial(t)
	c.room, c.longest = nil, unix.NLMSG_HDRLEN
	if messages, err := c.ask(getGen, unix.NFPROTO_UNSPEC, nil); err == nil || !strings.Contains(err.Error(), "longer than a kernel sends") {
		t.Errorf("got %d messages, %v", len(messages), err)
	}
}

// A kernel that says nothing does not hold anybody up for long.
func TestNoAnswer(t *testing.T) {
	c := newSandbox(t).dial(t)
	limit, err := unix.GetsockoptTimeval(c.FD, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	if err != nil || time.Duration(limit.Nano()) != netlink.Timeout {
		t.Fatalf("the time limit is %v, %v", limit, err)
	}
	short := unix.NsecToTimeval(int64(time.Millisecond))
	if err := unix.SetsockoptTimeval(c.FD, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &short); err != nil {
		t.Fatal(err)
	}
	if _, err := c.receive(); err == nil || !strings.Contains(err.Error(), "none within") {
		t.Errorf("got %v", err)
	}
}

// What the kernel refuses is said with its reason, and a transaction that is refused is not taken for one
// that was waited for.
func TestRefusedByTheKernel(t *testing.T) {
	s := newSandbox(t)
	c := s.dial(t)
	if _, err := c.ask(unix.NFNL_SUBSYS_NFTABLES<<8|0xff, unix.NFPROTO_UNSPEC, nil); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "0xaff") {
		t.Errorf("an unknown request: got %v", err)
	}
	if err := c.do(table(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a refused transaction: got %v", err)
	}
	if err := c.await(); err != nil {
		t.Error(err)
	}
	if _, err := c.ask(getGen, unix.NFPROTO_UNSPEC, nil); err != nil {
		t.Error(err)
	}
}

// Waiting changes nothing: whoever else counts generations sees none.
func TestAwaitIsNoChange(t *testing.T) {
	s := newSandbox(t)
	s.write(t, plans.DualStack(t))
	c := s.dial(t)
	before, err := generationOf(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.await(); err != nil {
		t.Fatal(err)
	}
	if after, err := generationOf(c); err != nil || string(after) != string(before) {
		t.Errorf("generation %x, then %x, %v", before, after, err)
	}
}

func TestAttributes(t *testing.T) {
	read := func(list []byte) (kinds string, err error) {
		err = eachAttribute(list, func(a attribute) error { kinds += string(rune('a'+a.kind)) + string(a.value); return nil })
		return kinds, err
	}
	two := append(attr(1, 'x'), attr(2|unix.NLA_F_NESTED, 'y', 'y')...)
	if kinds, err := read(two); err != nil || kinds != "bxcyy" {
		t.Errorf("got %q, %v", kinds, err)
	}
	if kinds, err := read(two[:len(two)-2]); err != nil || kinds != "bxcyy" { // the last one's padding may be missing
		t.Errorf("without padding: got %q, %v", kinds, err)
	}
	for _, bad := range [][]byte{two[:len(two)-3], {3, 0, 1, 0}, {0, 0, 1, 0}, {255, 255, 1, 0}} {
		if _, err := read(bad); err == nil {
			t.Errorf("%v is taken for attributes", bad)
		}
	}
}
