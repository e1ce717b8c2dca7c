// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// sandbox is a new namespace, for our code and for commands.
type sandbox struct {
	*nstest.Namespace
	ns *netns.Namespace
}

func newSandbox(t testing.TB) sandbox {
	t.Helper()
	s := sandbox{Namespace: nstest.New(t)}
	var err error
	if s.ns, err = netns.Open(s.Path, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.ns.Close)
	return s
}

// dial returns a socket in the namespace.
func (s sandbox) dial(t testing.TB) *netfilter {
	t.Helper()
	var c *netfilter
	if err := s.ns.Do(func() (err error) { c, err = dialNetfilter(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func (s sandbox) fingerprint(t testing.TB) string {
	t.Helper()
	sum, _, err := Tables{}.Fingerprint(t.Context(), s.ns)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func (s sandbox) write(t testing.TB, plan rules.Plan) (changed bool) {
	t.Helper()
	changed, err := New(IPTables).Apply(t.Context(), s.ns, plan)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func (c *netfilter) setReceiveBuffer(bytes int) error {
	return unix.SetsockoptInt(c.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}
