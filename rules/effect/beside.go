// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Neighbour is a table that somebody else wrote into a pod's namespace, or wrote to, and what it does beside a plan's rules.
type Neighbour struct {
	Table    string // its family and name as nft lists them, or iptables-legacy's program and its name
	Owner    string // whose tables are called so; "" is nobody's that is known
	Rules    int
	First    bool // packets come to it before they come to the plan's rules, or may
	Accepted bool // by the node's configuration, so that it does not count against the pod
	Result        // of the plan's rules with this table beside them, and no other
}

// String says whose table it is as far as names tell, and what it does.
func (n Neighbour) String() string {
	text := "table " + plain(n.Table)
	if n.Owner != "" {
		text += " (" + n.Owner + " by its name)"
	}
	text += fmt.Sprintf(", %d rules", n.Rules)
	if n.First {
		text += ", asked before the pod's"
	}
	text += ": " + n.does()
	if n.Accepted {
		text += "; accepted by the node's configuration (accepted_tables)"
	}
	return text
}

func (n Neighbour) does() string {
	packet := ""
	if len(n.Differences) > 0 {
		packet = ": " + n.Differences[0].String()
	}
	switch n.Answer {
	case Equal:
		return "harmless"
	case More:
		return "takes or stops more than the pod's rules, and nothing from them" + packet
	case LessWhileAway:
		return "takes from the pod's rules while the proxy does not listen" + packet
	case Less:
		return "takes from the pod's rules" + packet
	case CannotTell:
	}
	if packet == "" {
		return "what it does cannot be told: there is too much of it"
	}
	return "what it does cannot be told" + packet
}

type owner struct{ prefix, name string }

// owners are known by the names of their tables, or of chains in tables that many write to. A name is what its author says, and
// decides nothing.
var owners = []owner{
	{"istio-proxy-", "Istio's native rules"}, {"istio-ambient-", "Istio's ambient mode"}, {"ISTIO_", "Istio's iptables rules"},
	{"PROXY_INIT_", "linkerd-init"}, {"KUMA_MESH_", "Kuma"}, {"CONSUL_", "Consul"}, {"TEL_", "Telepresence"},
	{"docker-", "Docker"}, {"DOCKER", "Docker"}, {"netavark", "Podman"}, {"NETAVARK", "Podman"}, {"cilium", "Cilium"}, {"CILIUM_", "Cilium"},
	{"calico", "Calico"}, {"cali-", "Calico"}, {"KUBE-ROUTER-", "kube-router"}, {"kube-proxy", "kube-proxy"}, {"KUBE-", "kube-proxy"},
	{"tailscale", "Tailscale"}, {"ts-", "Tailscale"}, {"libvirt", "libvirt"}, {"LIBVIRT_", "libvirt"}, {"firewalld", "firewalld"},
}

// OwnerOf says whose a table is by its name and those of its chains; "" where nobody is known to use them.
func OwnerOf(table string, chains []string) string {
	for _, name := range append([]string{table}, chains...) {
		if i := slices.IndexFunc(owners, func(o owner) bool { return strings.HasPrefix(name, o.prefix) }); i >= 0 {
			return owners[i].name
		}
	}
	return ""
}

// plain returns a name as it is, or quoted where it could be taken for something else: whoever has NET_ADMIN in a pod chooses it.
func plain(name string) string {
	if quoted := strconv.Quote(name); len(quoted) > len(name)+2 {
		return quoted
	}
	return name
}

// Precedes reports whether packets come to a chain of one side before they come to those of the other at the same hook, or may.
func (s *Side) Precedes(other *Side) bool {
	for h := range s.hooks {
		for _, a := range s.hooks[h] {
			if slices.ContainsFunc(other.hooks[h], a.mayPrecede) {
				return true
			}
		}
	}
	return false
}

func (b Base) mayPrecede(other Base) bool {
	if b.Kind == NAT && other.Kind == NAT {
		return b.Priority <= other.Priority
	}
	return b.place() <= other.place()
}

// place is where the kernel asks a chain: those of nat together, whatever their priority is.
func (b Base) place() int {
	switch {
	case b.Kind != NAT:
		return b.Priority
	case b.Hook == Input || b.Hook == Postrouting:
		return atNatLast
	}
	return atNat
}

// besideKernel reports whether the kernel does something itself at a chain's hook and priority.
func (b Base) besideKernel() bool {
	switch b.Hook {
	case Prerouting, Output:
		return b.Priority == atTracking || b.Priority == atNat
	case Input, Postrouting:
		return b.Priority == atNatLast
	case Forward, hooks:
	}
	return false
}
