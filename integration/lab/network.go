// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
)

// network is the bridge the lab's pods are attached to.
type network struct {
	name   string // also the CNI network's name
	bridge string
	subnet netip.Prefix
	// subnet6 is the zero Prefix for a lab with IPv4 only.
	subnet6 netip.Prefix
}

// createNetwork makes the bridge itself rather than leaving it to the CNI
// plugin, which would turn IP forwarding on for the whole machine.
func createNetwork(ctx context.Context, id string, dualStack bool) (network, error) {
	subnet, err := freeSubnet()
	if err != nil {
		return network{}, err
	}
	n := network{name: "mlab-" + id, bridge: "mlab" + id, subnet: subnet}
	commands := [][]string{
		{"link", "add", n.bridge, "type", "bridge"},
		{"addr", "add", gateway(n.subnet), "dev", n.bridge},
		{"link", "set", n.bridge, "up"},
	}
	if dualStack {
		n.subnet6 = uniqueLocal(id)
		// Duplicate address detection would hold the address back for a second.
		commands = append(commands, []string{"-6", "addr", "add", gateway(n.subnet6), "dev", n.bridge, "nodad"})
	}
	for _, args := range commands {
		if err := ip(ctx, args...); err != nil {
			return n, fmt.Errorf("create bridge %s: %w", n.bridge, err)
		}
	}
	return n, nil
}

// freeSubnet picks a random 10.x.y.0/22, as many addresses as a bridge has
// ports, that no interface of the machine has an address in. The bridge's own
// address marks it as taken.
func freeSubnet() (netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list the machine's addresses: %w", err)
	}
	for range 100 {
		addr := netip.AddrFrom4([4]byte{10, byte(rand.IntN(256)), byte(rand.IntN(64) * 4), 0})
		if candidate := netip.PrefixFrom(addr, 22); !inUse(candidate, addrs) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, errors.New("found no free 10.x.y.0/22: remove left-over mlab* bridges")
}

func inUse(candidate netip.Prefix, addrs []net.Addr) bool {
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		// An interface that has all of 10/8 loses to the more specific route.
		if err == nil && prefix.Overlaps(candidate) && prefix.Bits() > 8 {
			return true
		}
	}
	return false
}

// uniqueLocal derives a /64 below fd00::/8 from the lab's id.
func uniqueLocal(id string) netip.Prefix {
	addr := netip.MustParseAddr(fmt.Sprintf("fd00:%s:%s::", id[:4], id[4:]))
	return netip.PrefixFrom(addr, 64)
}

// gateway returns the first address of the subnet in CIDR form.
func gateway(subnet netip.Prefix) string {
	return netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits()).String()
}

func (n network) conflist(ipamDir string) ([]byte, error) {
	type obj = map[string]any
	ranges := [][]obj{{{"subnet": n.subnet.String()}}}
	routes := []obj{{"dst": "0.0.0.0/0"}}
	if n.subnet6.IsValid() {
		ranges = append(ranges, []obj{{"subnet": n.subnet6.String()}})
		routes = append(routes, obj{"dst": "::/0"})
	}
	conflist, err := json.MarshalIndent(obj{
		"cniVersion": "1.0.0",
		"name":       n.name,
		// CRI-O would have the bridge checked, which tests listen on.
		"disableCheck": true,
		"plugins": []obj{{
			"type": "bridge", "bridge": n.bridge,
			"ipam": obj{"type": "host-local", "dataDir": ipamDir, "ranges": ranges, "routes": routes},
		}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write network configuration: %w", err)
	}
	return conflist, nil
}

// remove deletes the bridge; the pods' ends go with their namespaces.
func (n network) remove(ctx context.Context) error {
	if n.bridge == "" {
		return nil
	}
	if _, err := net.InterfaceByName(n.bridge); err != nil {
		return nil
	}
	if err := ip(ctx, "link", "del", n.bridge); err != nil {
		return fmt.Errorf("delete bridge %s: %w", n.bridge, err)
	}
	return nil
}

func ip(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}
