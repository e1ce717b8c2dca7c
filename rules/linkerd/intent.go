// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// The annotations that shape the redirection. Linkerd's injector copies those of the namespace to the pod. An
// empty value is as good as none, as for Linkerd's own plugin.
//
//	annotation           without it                  with it
//	skip-outbound-ports  the node's list             replaces that list
//	skip-inbound-ports   the node's list             is added to that list: without the admin port probes would fail
//	skip-subnets         none                        sources of inbound traffic only
//	proxy-uid            the node's                  replaces it
//	proxy-gid            the node's, none            replaces it; 0 and -1 are none
//	proxy-*-port         the node's                  replaces it; linkerd-cni does not look at these four, so that its rules
//	                                                 would lead to a port on which nobody listens
//	opaque-ports         -                           not looked at: these ports are redirected like all others
//	close-wait-timeout   -                           a setting of the kernel that no plan has: said in a note
const (
	prefix           = "config.linkerd.io/"
	keySkipOutbound  = prefix + "skip-outbound-ports"
	keySkipInbound   = prefix + "skip-inbound-ports"
	keySkipSubnets   = prefix + "skip-subnets"
	keyUID           = prefix + "proxy-uid"
	keyGID           = prefix + "proxy-gid"
	keyInboundPort   = prefix + "proxy-inbound-port"
	keyOutboundPort  = prefix + "proxy-outbound-port"
	keyControlPort   = prefix + "proxy-control-port"
	keyAdminPort     = prefix + "proxy-admin-port"
	keyCloseWait     = prefix + "close-wait-timeout"
	noteNotCloseWait = "annotation " + keyCloseWait + " is not followed: a pod in CNI mode has nobody who could set it"
)

// Intent is what the mesh wants for one pod, every default filled in.
type Intent struct {
	InboundPort  uint16 `json:"inboundPort" key:"linkerd.inbound_port"`
	OutboundPort uint16 `json:"outboundPort" key:"linkerd.outbound_port"`
	ControlPort  uint16 `json:"controlPort" key:"linkerd.control_port"` // never redirected inbound, nor is the next
	AdminPort    uint16 `json:"adminPort" key:"linkerd.admin_port"`
	UID          uint32 `json:"proxyUID" key:"linkerd.proxy_uid"`
	GID          uint32 `json:"proxyGID" key:"linkerd.proxy_gid" none:"none"` // 0: none

	SkipInbound   []rules.PortRange `json:"inboundPortsSkipped" key:"linkerd.skip_inbound"`
	SkipOutbound  []rules.PortRange `json:"outboundPortsSkipped" key:"linkerd.skip_outbound"`
	APIServer     []rules.PortRange `json:"apiServerPorts" key:"linkerd.api_server"` // skipped outbound, too; of pods of the control plane
	SkipSources   []netip.Prefix    `json:"inboundSourcesSkipped"`
	RedirectPorts []uint16          `json:"inboundPorts" key:"linkerd.redirect_ports" none:"all"` // none: all

	ProxyIPv6   bool              `json:"proxyIPv6" key:"linkerd.proxy_ipv6"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6" key:"linkerd.ipv6"`

	notes []string
}

func (in *Intent) read(r *mesh.Reader, d Defaults) error {
	*in = Intent{InboundPort: d.InboundPort, OutboundPort: d.OutboundPort, ControlPort: d.ControlPort, AdminPort: d.AdminPort, UID: d.UID, GID: d.GID,
		RedirectPorts: d.RedirectPorts, SkipOutbound: d.SkipOutbound, ProxyIPv6: d.ProxyIPv6, WithoutIPv6: d.WithoutIPv6}
	given(r, keyInboundPort, &in.InboundPort, rules.ParsePort)
	given(r, keyOutboundPort, &in.OutboundPort, rules.ParsePort)
	given(r, keyControlPort, &in.ControlPort, rules.ParsePort)
	given(r, keyAdminPort, &in.AdminPort, rules.ParsePort)
	given(r, keyUID, &in.UID, rules.ParseID)
	given(r, keyGID, &in.GID, parseGroup)
	given(r, keySkipOutbound, &in.SkipOutbound, in.ports(keySkipOutbound))
	given(r, keySkipSubnets, &in.SkipSources, parseSubnets)
	given(r, keySkipInbound, &in.SkipInbound, in.ports(keySkipInbound))
	if len(d.SkipInbound) > 0 {
		if in.SkipInbound != nil {
			r.Gave(&in.SkipInbound, "annotation ", keySkipInbound, ", added to linkerd.skip_inbound")
		}
		in.SkipInbound = slices.Concat(d.SkipInbound, in.SkipInbound)
	}
	if component, own := r.Pod.Labels[labelComponent]; !own {
		r.Gave(&in.APIServer, "no label ", labelComponent)
	} else if in.APIServer = d.APIServer; !slices.Contains(d.ControlPlaneNamespaces, r.Pod.Namespace) {
		return &rules.InputError{Place: "label " + labelComponent, Value: component, Problem: "marks a pod of the control " +
			"plane's own, which reaches the Kubernetes API without its proxy, and namespace " + r.Pod.Namespace + " is none of linkerd.control_plane_namespaces"}
	}
	if r.Pod.Annotations[keyCloseWait] != "" {
		in.notes = append(in.notes, noteNotCloseWait)
	}
	if in.InboundPort == in.OutboundPort {
		r.FailAt("proxy ports", rules.PortRange{First: in.InboundPort, Last: in.InboundPort}.String(), "inbound and outbound listener cannot share a port")
	}
	return r.Understood("the annotations say what is to be redirected, and contradict nothing")
}

// given reads an annotation, of which an empty one is none.
func given[T any](r *mesh.Reader, key string, into *T, parse func(string) (T, string)) {
	if r.Pod.Annotations[key] != "" {
		mesh.Read(r, key, into, parse)
	}
}

// inboundSkips returns every port that is not redirected inbound.
func (in Intent) inboundSkips() []rules.PortRange {
	return slices.Concat([]rules.PortRange{{First: in.AdminPort, Last: in.AdminPort}, {First: in.ControlPort, Last: in.ControlPort}}, in.SkipInbound)
}

// outboundSkips returns every port that is not redirected outbound.
func (in Intent) outboundSkips() []rules.PortRange {
	return slices.Concat(in.SkipOutbound, in.APIServer)
}

// ports reads ports and ranges. As linkerd-cni does, it leaves out what is neither, such as an item with a blank before
// it, as long as any other is left: that port is redirected, and a note says so.
func (in *Intent) ports(key string) func(string) ([]rules.PortRange, string) {
	return func(list string) (ports []rules.PortRange, problem string) {
		var left []string
		for item := range strings.SplitSeq(list, ",") {
			if r, ok := rules.ParsePortRange(item); ok {
				ports = append(ports, r)
			} else {
				left = append(left, item)
			}
		}
		if len(ports) == 0 {
			_, problem = rules.ParsePorts(list)
			return nil, problem
		}
		if len(left) > 0 {
			in.notes = append(in.notes, fmt.Sprintf("annotation %s: %q is not a port or a range such as 8000-8010 (no blanks around it); "+
				"%d of %d items are not followed, and what they name is redirected", key, rules.Excerpt(left[0]), len(left), len(left)+len(ports)))
		}
		return ports, ""
	}
}

// parseSubnets reads CIDRs, and leaves out blanks around them as linkerd-cni does.
func parseSubnets(list string) ([]netip.Prefix, string) {
	items := strings.Split(list, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return rules.ParsePrefixes(strings.Join(items, ","))
}

// parseGroup reads a group; what Linkerd takes for none is 0.
func parseGroup(text string) (id uint32, problem string) {
	if text == "0" || text == "-1" {
		return 0, ""
	}
	return rules.ParseID(text)
}
