// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestSignalsEndNothing(t *testing.T) {
	answers := []error{unix.EINTR, unix.EINTR, unix.EPERM}
	err := Retried(func() (err error) { err, answers = answers[0], answers[1:]; return err })
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

// What is written is read again, padding or not, and what is cut short is not read.
func TestAttributes(t *testing.T) {
	list := AppendNumber(AppendAttribute(nil, 7|unix.NLA_F_NESTED, []byte("abcde")), 9, 0x01010101)
	for length, want := range map[int]string{
		len(list):     "7:abcde 9:\x01\x01\x01\x01",
		len(list) - 1: "7:abcde an attribute is longer than what holds it",
		12:            "7:abcde",
		9:             "7:abcde", // the last one need not be padded
		8:             "an attribute is longer than what holds it",
		3:             "",
	} {
		var words []string
		err := Each(list[:length], func(kind uint16, value []byte) { words = append(words, fmt.Sprintf("%d:%s", kind, value)) })
		if err != nil {
			words = append(words, err.Error())
		}
		if got := strings.Join(words, " "); got != want {
			t.Errorf("%d bytes: %q, want %q", length, got, want)
		}
	}
	if err := Each([]byte{3, 0, 7, 0}, func(uint16, []byte) { t.Error("an attribute without a header") }); err == nil {
		t.Error("it is no error")
	}
}

func TestMessages(t *testing.T) {
	one := append(AppendRequest(nil, unix.RTM_NEWRULE, unix.NLM_F_MULTI, 5), "abcde"...)
	End(one)
	packet := append(append(one, 0, 0, 0), AppendRequest(nil, unix.NLMSG_DONE, 0, 6)...)
	first, rest, err := Next(packet)
	if err != nil || first.Kind != unix.RTM_NEWRULE || first.Flags&unix.NLM_F_MULTI == 0 || first.Seq != 5 || string(first.Body) != "abcde" || first.Ends() {
		t.Errorf("got %+v, %v", first, err)
	}
	last, rest, err := Next(rest)
	if err != nil || !last.Ends() || last.Seq != 6 || last.Refusal() != nil || len(rest) != 0 {
		t.Errorf("got %+v, %v, and %d bytes", last, err, len(rest))
	}
	for _, short := range [][]byte{packet[:20], {15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if m, _, err := Next(short); err == nil {
			t.Errorf("read %+v of %x", m, short)
		}
	}
	refused := Message{Kind: unix.NLMSG_ERROR, Body: []byte{0xff, 0xff, 0xff, 0xff}}
	if err := refused.Refusal(); !errors.Is(err, unix.EPERM) || !refused.Ends() {
		t.Errorf("got %v", err)
	}
}

// Whoever may configure the pod's network can send without end, and keeps nobody waiting for the kernel.
func TestOthersAreNotHeard(t *testing.T) {
	nstest.Require(t)
	ours, err := Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	var to *unix.SockaddrNetlink
	if err := unix.Bind(ours.FD, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if name, err := unix.Getsockname(ours.FD); err != nil {
		t.Fatal(err)
	} else {
		to = name.(*unix.SockaddrNetlink)
	}
	done, sent := make(chan error, 1), 0
	go func() {
		_, err := ours.Receive(make([]byte, LongestPacket))
		done <- err
	}()
	for {
		select {
		case err := <-done:
			if err == nil || sent == 0 {
				t.Errorf("got %v after %d packets", err, sent)
			}
			return
		default:
			if err := unix.Sendto(theirs.FD, AppendRequest(nil, unix.NLMSG_NOOP, 0, 1), unix.MSG_DONTWAIT, to); err == nil {
				sent++
			} else if !errors.Is(err, unix.EAGAIN) {
				t.Fatal(err)
			}
		}
	}
}

// Whatever a packet holds, reading it ends.
func FuzzRead(f *testing.F) {
	f.Add(AppendNumber(AppendRequest(nil, unix.RTM_NEWRULE, 0, 1), 7, 9))
	f.Fuzz(func(_ *testing.T, packet []byte) {
		for len(packet) >= unix.NLMSG_HDRLEN {
			m, rest, err := Next(packet)
			if err != nil {
				return
			}
			_ = Each(m.Body, func(uint16, []byte) {})
			_ = m.Refusal()
			packet = rest
		}
	})
}
