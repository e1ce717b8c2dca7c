// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
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

// inputKeys are the keys of what intent reads, and keys all that is looked at, of labels too.
var (
	inputKeys = [...]string{keySkipOutbound, keySkipInbound, keySkipSubnets, keyUID, keyGID, keyInboundPort, keyOutboundPort, keyControlPort, keyAdminPort}
	keys      = append([]string{labelControlPlane, labelComponent, keyVersion, keyCloseWait}, inputKeys[:]...)
)

// Intent is what the mesh wants for one pod, every default filled in.
type Intent struct {
	InboundPort  uint16 `json:"inboundPort"`
	OutboundPort uint16 `json:"outboundPort"`
	ControlPort  uint16 `json:"controlPort"` // never redirected inbound, nor is the next
	AdminPort    uint16 `json:"adminPort"`
	UID          uint32 `json:"proxyUID"`
	GID          uint32 `json:"proxyGID"` // 0: none

	SkipInbound   []rules.PortRange `json:"inboundPortsSkipped"`
	SkipOutbound  []rules.PortRange `json:"outboundPortsSkipped"`
	APIServer     []rules.PortRange `json:"apiServerPorts"` // skipped outbound, too; of pods of the control plane
	SkipSources   []netip.Prefix    `json:"inboundSourcesSkipped"`
	RedirectPorts []uint16          `json:"inboundPorts"` // none: all

	ProxyIPv6   bool              `json:"proxyIPv6"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6"`

	notes []string
}

func (m Mesh) intent(pod rules.Pod) (Intent, error) {
	d := m.Defaults
	in := Intent{InboundPort: d.InboundPort, OutboundPort: d.OutboundPort, ControlPort: d.ControlPort, AdminPort: d.AdminPort, UID: d.UID, GID: d.GID,
		RedirectPorts: d.RedirectPorts, SkipOutbound: d.SkipOutbound, ProxyIPv6: d.ProxyIPv6, WithoutIPv6: d.WithoutIPv6}
	a := annotations{values: pod.Annotations}
	read(&a, keyInboundPort, &in.InboundPort, rules.ParsePort)
	read(&a, keyOutboundPort, &in.OutboundPort, rules.ParsePort)
	read(&a, keyControlPort, &in.ControlPort, rules.ParsePort)
	read(&a, keyAdminPort, &in.AdminPort, rules.ParsePort)
	read(&a, keyUID, &in.UID, rules.ParseID)
	read(&a, keyGID, &in.GID, parseGroup)
	read(&a, keySkipOutbound, &in.SkipOutbound, in.ports(keySkipOutbound))
	read(&a, keySkipSubnets, &in.SkipSources, parseSubnets)

	var more []rules.PortRange
	read(&a, keySkipInbound, &more, in.ports(keySkipInbound))
	in.SkipInbound = slices.Concat(d.SkipInbound, more)
	if _, own := pod.Labels[labelComponent]; own {
		if !slices.Contains(d.ControlPlaneNamespaces, pod.Namespace) {
			return Intent{}, &rules.InputError{Place: "label " + labelComponent, Value: pod.Labels[labelComponent], Problem: "marks a pod of the control " +
				"plane's own, which reaches the Kubernetes API without its proxy, and namespace " + pod.Namespace + " is none of linkerd.control_plane_namespaces"}
		}
		in.APIServer = d.APIServer
	}
	if pod.Annotations[keyCloseWait] != "" {
		in.notes = append(in.notes, noteNotCloseWait)
	}
	if a.err != nil {
		return Intent{}, a.err
	}
	return in, in.check()
}

// inputs are what intent reads.
func inputs(pod rules.Pod) (all [len(inputKeys)]rules.Input) {
	for i, key := range inputKeys {
		all[i] = rules.ListInput("annotation", key, pod.Annotations[key])
	}
	return all
}

// inboundSkips returns every port that is not redirected inbound.
func (in Intent) inboundSkips() []rules.PortRange {
	return slices.Concat([]rules.PortRange{{First: in.AdminPort, Last: in.AdminPort}, {First: in.ControlPort, Last: in.ControlPort}}, in.SkipInbound)
}

// outboundSkips returns every port that is not redirected outbound.
func (in Intent) outboundSkips() []rules.PortRange {
	return slices.Concat(in.SkipOutbound, in.APIServer)
}

// check refuses settings that are each valid but cannot work together.
func (in Intent) check() error {
	if in.InboundPort == in.OutboundPort {
		return &rules.InputError{Place: "proxy ports", Value: rules.PortRange{First: in.InboundPort, Last: in.InboundPort}.String(),
			Problem: "inbound and outbound listener cannot share a port"}
	}
	return nil
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

// annotations reads values and keeps the first problem.
type annotations struct {
	values map[string]string
	err    error
}

// read sets a value that an annotation gives.
func read[T any](a *annotations, key string, into *T, parse func(string) (T, string)) {
	text := a.values[key]
	if text == "" {
		return
	}
	value, problem := parse(text)
	switch {
	case problem == "":
		*into = value
	case a.err == nil:
		a.err = &rules.InputError{Place: "annotation " + key, Value: text, Problem: problem}
	}
}
