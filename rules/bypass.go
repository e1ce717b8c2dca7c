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

func (n Node) refusesPowers(namespace string) bool {
	return n.RefusePowers && !MatchesAny(n.PowersExempt, namespace)
}
