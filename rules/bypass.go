// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Phase is when in a pod's life a container runs; "" is with the pod, or not known.
type Phase string

// The phases.
const (
	PhaseInit    Phase = "init"    // to its end, before the next one
	PhaseSidecar Phase = "sidecar" // from before those that follow it, an init container that restarts always
	PhaseDebug   Phase = "debug"   // ephemeral
)

// Powers are what a container may do to its network beyond its pod's rules: of a manifest or by the kubelet only, a runtime
// does not tell.
type Powers struct {
	Privileged  bool
	NetAdmin    bool // added to what the runtime gives every container
	NetRaw      bool // the same
	DropsNetRaw bool // it has none, whatever the runtime gives
}

// Way is a word for how a container can go around its pod's rules.
type Way string

// The ways.
const (
	WayPrivileged Way = "privileged"
	WayNetAdmin   Way = "net_admin"
	WayNetRaw     Way = "net_raw"
	WayHostPID    Way = "host_pid"
	WayProxyUser  Way = "proxy_user"
)

// Ways are all of them.
var Ways = [...]Way{WayPrivileged, WayNetAdmin, WayNetRaw, WayHostPID, WayProxyUser}

// Bypass is a container of an enrolled pod that can go around its rules, and how.
type Bypass struct {
	Container string
	Ways      []Way
}

// String says it in a sentence's part.
func (b Bypass) String() string {
	words := make([]string, len(b.Ways))
	for i, way := range b.Ways {
		words[i] = string(way)
	}
	return fmt.Sprintf("container %s (%s)", shortened(b.Container, longestValue), strings.Join(words, ", "))
}

// Bypasses returns the containers of an enrolled pod, besides the proxy, that can go around its rules, as far as they are
// known. NET_RAW that a runtime gives every container is among the ways only where a lockdown asks for that.
func (d Decision) Bypasses(pod Pod) (all []Bypass) {
	if d.Action != Enrol {
		return nil
	}
	for _, c := range pod.Containers {
		if d.Proxy.is(c) {
			continue
		}
		var ways []Way
		for i, has := range [...]bool{c.Powers.Privileged, c.Powers.NetAdmin, c.Powers.NetRaw || d.RawSockets && pod.keepsNetRaw(c), pod.HostPID, d.Impostor(c) != ""} {
			if has {
				ways = append(ways, Ways[i])
			}
		}
		if len(ways) > 0 {
			all = append(all, Bypass{c.Name, ways})
		}
	}
	return all
}

// keepsNetRaw reports whether a container may have NET_RAW, where a runtime gives it to all, as far as containers' powers are known.
func (p Pod) keepsNetRaw(c Container) bool {
	return (p.Complete || p.Specified) && !c.Powers.DropsNetRaw
}

// mostNamed is how many containers of a pod are named in a sentence.
const mostNamed = 3

// SayBypasses names the first ones.
func SayBypasses(all []Bypass) string {
	words := make([]string, len(all))
	for i, b := range all {
		words[i] = b.String()
	}
	return firstOf(words, ", ")
}

// privileged returns those that are given a way, other than by the proxy's user, which is Impostor's matter.
func privileged(all []Bypass) []Bypass {
	return slices.DeleteFunc(all, func(b Bypass) bool { return len(b.Ways) == 1 && b.Ways[0] == WayProxyUser })
}

// early returns the names of the init containers that run to their end before the proxy of the pod does.
func (d Decision) early(pod Pod) (names []string) {
	for _, c := range pod.Containers {
		switch proxy := d.Proxy.index(c.Name) >= 0; {
		case c.Phase == PhaseSidecar && proxy:
			return names
		case c.Phase == PhaseInit && !proxy:
			names = append(names, shortened(c.Name, longestValue))
		}
	}
	return names
}

// earlyNote says which init containers reach nothing; nil where none does.
func (d Decision) earlyNote(pod Pod) []string {
	names := d.early(pod)
	if len(names) == 0 {
		return nil
	}
	more := ""
	if len(names) > mostNamed {
		names, more = names[:mostNamed], fmt.Sprintf(" and %d more", len(names)-mostNamed)
	}
	return []string{"init container " + strings.Join(names, ", ") + more + " runs before the proxy does: what is captured of its connections is refused"}
}

// sendsRaw returns those that can send by packet sockets, which meet no rule.
func sendsRaw(all []Bypass) []Bypass {
	return slices.DeleteFunc(all, func(b Bypass) bool {
		return !slices.Contains(b.Ways, WayNetRaw) && !slices.Contains(b.Ways, WayPrivileged)
	})
}

// Refusing returns the decision with what the node refuses containers of the namespace for.
func (n Node) Refusing(namespace string, d Decision) Decision {
	d.RefusesRaw = ""
	d.RefusesPowers = n.RefusePowers && !MatchesAny(n.PowersExempt, namespace)
	l, refuses := n.rawSockets(namespace)
	if d.RawSockets = l.Raw != ""; refuses {
		d.RefusesRaw = l.String()
	}
	return d
}

// Bars reports whether containers are refused for what they are given.
func (d Decision) Bars() bool { return d.RefusesPowers || d.RefusesRaw != "" }

// BarsMore reports whether containers are refused for what an earlier decision let them be given.
func (d Decision) BarsMore(before Decision) bool {
	return d.RefusesPowers && !before.RefusesPowers || d.RefusesRaw != "" && before.RefusesRaw == ""
}

// BarringAs returns the decision with what containers are refused for by an earlier one, too.
func (d Decision) BarringAs(before Decision) Decision {
	d.RefusesPowers = d.RefusesPowers && before.RefusesPowers
	if before.RefusesRaw == "" {
		d.RefusesRaw = ""
	}
	return d
}

// Barred says which of a pod's containers are refused for what they are given, as far as they are known; "" is none. A debug
// container counts only where it is the one that starts: its pod cannot lose it again.
func (d Decision) Barred(pod Pod, starts string) string {
	if !d.Bars() {
		return ""
	}
	if problem := d.unreadable(pod); problem != "" {
		return problem
	}
	pod.Containers = slices.DeleteFunc(slices.Clone(pod.Containers), func(c Container) bool { return c.Phase == PhaseDebug && c.Name != starts })
	added := d
	added.RawSockets = false // what the runtime gives to all is the lockdown's matter
	if all := privileged(added.Bypasses(pod)); d.RefusesPowers && len(all) > 0 {
		return SayBypasses(all) + " can go around the pod's rules, and bypass.privileged in the node's configuration refuses that"
	}
	if all := sendsRaw(d.Bypasses(pod)); d.RefusesRaw != "" && len(all) > 0 {
		return SayBypasses(all) + " can send what meets no rule, by packet sockets, and " + d.RefusesRaw + " refuses that (raw): capabilities: {drop: [NET_RAW]} takes it"
	}
	return ""
}

// Late reports whether what a container is given counts only once it starts: it is added to a pod that runs, or has the proxy's
// name, and what its specification says may not show whether it is the proxy.
func (d Decision) Late(c Container) bool { return c.Phase == PhaseDebug || d.Proxy.index(c.Name) >= 0 }

// Poses says that a container has the proxy's name and is another one; "" is that it is not so.
func (d Decision) Poses(c Container) string {
	if d.Proxy.index(c.Name) < 0 || d.Proxy.is(c) {
		return ""
	}
	return fmt.Sprintf("container %s has the proxy's name, and is not the proxy by what it runs or by its image", shortened(c.Name, longestValue))
}
