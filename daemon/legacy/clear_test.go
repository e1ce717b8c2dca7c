// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// What a mesh's init container left in tables of iptables-legacy goes, where nobody else has anything in that table. The kernel
// takes the empty table for a table: rules can be put into it again.
func TestClear(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	chains := []string{"PROXY_INIT_OUTPUT", "PROXY_INIT_REDIRECT"}
	mesh := []string{"-t nat -N PROXY_INIT_REDIRECT", "-t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143",
		"-t nat -A PREROUTING -m comment --comment proxy-init -j PROXY_INIT_REDIRECT", "-t nat -N PROXY_INIT_OUTPUT",
		"-t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN", "-t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140",
		"-t nat -A OUTPUT -j PROXY_INIT_OUTPUT"}
	for name, tt := range map[string]struct {
		beside string
		clears bool
	}{
		"a mesh's":               {"", true},
		"another table":          {"-t filter -A INPUT -p tcp --dport 1 -j DROP", true},
		"a rule of somebody":     {"-t nat -A POSTROUTING -p tcp -j RETURN", false},
		"a rule beside a jump":   {"-t nat -A OUTPUT -p tcp -j REDIRECT --to-port 1", false},
		"a chain of somebody":    {"-t nat -N DOCKER", false},
		"a policy of somebody's": {"-t mangle -P OUTPUT DROP", true},
	} {
		for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
			t.Run(program+"/"+name, func(t *testing.T) {
				s := nstest.New(t)
				ns, err := netns.Open(s.Path, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(ns.Close)
				run := func(line string) { s.Run(t, program, strings.Fields(line)...) }
				for _, line := range mesh {
					run(line)
				}
				if tt.beside != "" {
					run(tt.beside)
				}
				before := s.Run(t, program+"-save")
				for _, want := range []bool{tt.clears, false} { // the second time nothing is left to do
					err := ns.Do(func() error {
						cleared, err := Clear(func(chain string) bool { return slices.Contains(chains, chain) })
						if cleared != want {
							t.Errorf("cleared: %v, want %v", cleared, want)
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				after := s.Run(t, program+"-save")
				if left := strings.Contains(after, "PROXY_INIT"); left == tt.clears || !tt.clears && rulesOf(after) != rulesOf(before) {
					t.Errorf("before\n%safter\n%s", before, after)
				}
				if strings.Contains(tt.beside, "filter") && !strings.Contains(after, "--dport 1 -j DROP") ||
					strings.Contains(tt.beside, "mangle") && !strings.Contains(after, ":OUTPUT DROP") {
					t.Errorf("somebody else's table is another one:\n%s", after)
				}
				if tt.clears {
					run("-t nat -A OUTPUT -p tcp -j REDIRECT --to-port 1")
				}
			})
		}
	}
}

// rulesOf leaves out comments and counters.
func rulesOf(saved string) string {
	var lines []string
	for line := range strings.Lines(saved) {
		if strings.HasPrefix(line, "-A") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// The sockets that are asked are no raw ones: who has NET_ADMIN alone reads the tables and empties them. Without NET_ADMIN nothing
// is read, and that is said.
func TestWithoutNetRaw(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	s := nstest.New(t)
	ns, err := netns.Open(s.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	s.RunInput(t, "*nat\n:ISTIO_OUTPUT -\n-A OUTPUT -j ISTIO_OUTPUT\nCOMMIT\n", "iptables-legacy-restore")
	for _, tt := range []struct {
		lack    int
		cleared bool
		want    string
	}{{unix.CAP_NET_ADMIN, false, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, true, ""}} {
		err := ns.Do(func() error {
			defer without(t, tt.lack)()
			_, unread := Read()
			if (unread == nil) != (tt.want == "") || unread != nil && !strings.Contains(unread.Error(), tt.want) {
				t.Errorf("read: got %v, want %q", unread, tt.want)
			}
			cleared, err := Clear(func(chain string) bool { return chain == "ISTIO_OUTPUT" })
			if cleared != tt.cleared {
				t.Errorf("cleared %v, want %v", cleared, tt.cleared)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// without takes a capability from the calling thread until it is called back.
func without(t testing.TB, capability int) (back func()) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	has := had
	has[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &has[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Error(err)
		}
	}
}
