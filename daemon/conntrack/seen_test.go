// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What a lockdown counts is found again in both dialects, by where it went, and nothing else is; and no more than asked for.
func TestSeen(t *testing.T) {
	plan := counting(t)
	for _, dialect := range []nftables.Dialect{nftables.IPTables, nftables.Native} {
		t.Run(string(dialect), func(t *testing.T) {
			if dialect == nftables.IPTables {
				nstest.RequireRoot(t) // xt_owner takes the last user there can be from root of the whole system alone
			}
			pod := nstest.New(t)
			pod.Peer(t, "10.9.0.0/24", "fd00:9::/64")
			ns, err := netns.Open(pod.Path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			seen := func(most int) (all []rules.Seen) {
				t.Helper()
				err := ns.Do(func() (err error) {
					all, err = conntrack.Table{}.Seen(most)
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				return all
			}
			if all := seen(9); len(all) > 0 {
				t.Errorf("before: %v", all)
			}
			if _, err := nftables.New(dialect).Apply(t.Context(), ns, plan); err != nil {
				t.Fatal(err)
			}
			pod.Run(t, "bash", "-ec", `for to in 10.9.0.2/8125 10.9.0.2/8126 fd00:9::2/8126; do echo >/dev/udp/$to; done
ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev eth0 # nobody answers: what is refused is forgotten at once`)
			if err := ns.Do(func() error { return errors.Join(begin(t, 5432), begin(t, 15012), ping()) }); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range seen(9) {
				got = append(got, string(s.Class)+" "+s.String())
			}
			slices.Sort(got)
			want := []string{"egress tcp to 10.9.0.9:15012", "egress tcp to 10.9.0.9:5432",
				"icmp icmp to 10.9.0.2", "udp udp to 10.9.0.2:8125", "udp udp to [fd00:9::2]:8126"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if all := seen(2); len(all) != 2 {
				t.Errorf("two at most: %v", all)
			}
		})
	}
}

// begin sends the first packet of a connection that nobody answers.
func begin(t *testing.T, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{10, 9, 0, 9}}); !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to port %d: %w", port, err)
	}
	return nil
}

func ping() error {
	conn, err := net.Dial("ip4:icmp", "10.9.0.2")
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte{8, 0, 0xf7, 0xfe, 0, 1, 0, 0}) // a request, with its checksum
	return err
}

// counting is the plan of a pod whose lockdown counts and lets a port go.
func counting(t *testing.T) rules.Plan {
	t.Helper()
	open, problem := rules.ParsePeer("10.9.0.0/24:8126/udp")
	if problem != "" {
		t.Fatal(problem)
	}
	defaults := istio.Standard()
	defaults.DualStack = true
	n := rules.Node{Meshes: []rules.Mesh{istio.New(defaults)}, RuntimeHandlers: []string{""},
		Lockdowns: []rules.Lockdown{{UDP: rules.UDPNone, ICMP: true, Egress: true, Allow: []rules.Peer{open}}}}
	d := n.Decide(rules.Pod{Annotations: map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`,
		"traffic.sidecar.istio.io/excludeOutboundPorts": "5432,15012"}})
	if d.Action != rules.Enrol {
		t.Fatal(d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00:9::1")}})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
