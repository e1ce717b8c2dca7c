// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/nri/pkg/api"
)

// Runtime is what meshnetd knows of the container runtime it talks to.
type Runtime struct {
	Name    string // as the runtime says it
	Version string // as the runtime says it

	// RefuseLate is set for versions of containerd that leave a pause container behind when RunPodSandbox
	// is refused, and then do not start again (containerd issues 13355 and 13609). There the sandbox is
	// let through and its containers are refused.
	RefuseLate bool
	Validates  bool // it asks a last time when every plugin has had its say about a container
	TellsUser  bool // it says as which user a container runs

	// Unheeded is a sentence: why a container may run although its start was refused; "" where it does not.
	Unheeded string

	Tier   Tier
	Why    string   // a sentence: why it is in this tier
	Limits []string // sentences: what cannot be seen or kept with this runtime, and what to upgrade to

	guessed bool // not in the version table
}

// String returns name and version.
func (rt Runtime) String() string { return rt.Name + " " + rt.Version }

// Tier is how far the promise holds with a runtime: that no container of the mesh runs without its rules.
type Tier string

// The tiers. The first two need the runtime's default validator on and meshnetd among the required plugins, which is
// shown by the runtime's last question about each container.
const (
	Guaranteed Tier = "guaranteed"
	Reduced    Tier = "reduced"     // kept, but a pod is refused at its first container, not at its sandbox
	BestEffort Tier = "best effort" // not kept while meshnetd is away, or where it answers too late
)

// Unsupported is returned for a runtime that meshnetd must not be trusted with.
type Unsupported struct{ Runtime, Version, Why string }

// Error says which version is needed.
func (e *Unsupported) Error() string {
	return fmt.Sprintf("%s %s cannot be used: %s", e.Runtime, e.Version, e.Why)
}

// release is major.minor.patch, comparable by order.
type release [3]int

func (r release) before(major, minor, patch int) bool {
	for i, n := range [3]int{major, minor, patch} {
		if r[i] != n {
			return r[i] < n
		}
	}
	return false
}

// CRI-O says "1.36.0", containerd "v2.4.2" or "2.4.2+unknown", development builds say more.
var releasePattern = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?`)

func parseRelease(version string) (release, bool) {
	found := releasePattern.FindStringSubmatch(version)
	if found == nil {
		return release{}, false
	}
	var r release
	for i, digits := range found[1:] {
		n, err := strconv.Atoi(digits)
		if err != nil && digits != "" {
			return release{}, false
		}
		r[i] = n
	}
	return r, true
}

// Identify says what meshnetd can do with a runtime of which it has name and version, without a session. Its error is
// an *Unsupported.
//
// A runtime or version that is not in the version table is asked for everything that meshnetd can use, and not relied on for
// anything.
func Identify(name, version string) (Runtime, error) {
	rt := Runtime{Name: name, Version: version}
	if r, ok := parseRelease(version); ok {
		switch strings.ToLower(strings.ReplaceAll(name, "-", "")) {
		case "containerd":
			return rt.containerd(r)
		case "crio":
			return rt.crio(r)
		}
	}
	rt.guessed, rt.Validates = true, true
	rt.Unheeded = "It is not known whether this runtime heeds that: the container may run"
	rt.Tier, rt.Why = BestEffort, "meshnetd does not know this runtime, or cannot read its version."
	rt.Limits = []string{
		"It is not known whether containers start while meshnetd is away or too slow: use " + validating + ".",
		"The user of a container may not be told: unless the kubelet's Pods API tells it, proxy_identity then sees nothing, and the proxy's ids come from " +
			"proxy.istio.io/overrides and the configuration.",
	}
	return rt, nil
}

const (
	validating = "containerd 2.2.6, 2.3.3 or newer, or CRI-O 1.34 or newer"
	condition  = "it holds only where the runtime's default validator is on and the plugin is required, which containers of the mesh show."
)

func (rt Runtime) containerd(r release) (Runtime, error) {
	switch {
	case r.before(1, 7, 26):
		return rt, &Unsupported{rt.Name, rt.Version, "its NRI loses pods while a plugin connects; upgrade to 1.7.26, 2.2.6, 2.3.3 or newer"}
	case !r.before(2, 0, 0) && r.before(2, 0, 3):
		return rt, &Unsupported{rt.Name, rt.Version, "its NRI loses pods while a plugin connects; upgrade to 2.2.6, 2.3.3 or newer"}
	}
	fixed := !r.before(2, 3, 3) || (r[1] == 2 && !r.before(2, 2, 6))
	rt.RefuseLate = !r.before(2, 0, 0) && !fixed
	rt.Validates = !r.before(2, 2, 0)
	rt.TellsUser = !r.before(2, 3, 0)
	return rt.judged("containerd 2.2.6, 2.3.3 or newer", "containerd 2.3.3 or newer"), nil
}

func (rt Runtime) crio(r release) (Runtime, error) {
	if r.before(1, 30, 0) {
		return rt, &Unsupported{rt.Name, rt.Version, "its NRI is off by default and too old; upgrade to 1.34 or newer"}
	}
	rt.Validates = !r.before(1, 34, 0)
	rt.TellsUser = !r.before(1, 36, 0)
	rt.Unheeded = "The start could not be refused: CRI-O starts a container all the same"
	return rt.judged("CRI-O 1.34 or newer", "CRI-O 1.36 or newer"), nil
}

// judged adds what the features mean for the promise. guaranteed and tells are the releases that have all of them, and
// that tell the user.
func (rt Runtime) judged(guaranteed, tells string) Runtime {
	switch {
	case !rt.Validates:
		rt.Tier, rt.Why = BestEffort, "Its NRI has no validators, so nothing keeps containers from starting without meshnetd."
		rt.Limits = append(rt.Limits, "A container starts without meshnetd when that has crashed, is away or is too slow; upgrade to "+guaranteed+".")
	case rt.RefuseLate:
		rt.Tier, rt.Why = Reduced, "It breaks when a sandbox is refused, so a pod is refused at its first container; "+condition
	default:
		rt.Tier, rt.Why = Guaranteed, "It refuses sandboxes and asks validators about containers; "+condition
	}
	if rt.RefuseLate {
		rt.Limits = append(rt.Limits, "A sandbox without its rules is let through and its containers are refused, since a refused sandbox "+
			"keeps this version from starting again; upgrade to "+guaranteed+".")
	}
	if !rt.TellsUser {
		rt.Limits = append(rt.Limits, "The user of a container is not told: unless the kubelet's Pods API tells it, proxy_identity sees nothing, and the proxy's ids come from "+
			"proxy.istio.io/overrides and the configuration; upgrade to "+tells+".")
	}
	return rt
}

// level is the log level of a session with this runtime.
func (rt Runtime) level() slog.Level {
	if rt.Tier == Guaranteed {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// withoutValidation returns an unknown runtime as one without validation, over which it closed the connection.
func (rt Runtime) withoutValidation() Runtime {
	rt.Validates = false
	rt.Limits = append([]string{"It closed the connection when it was asked for validation, and is used without: a container starts " +
		"without meshnetd when that has crashed, is away or is too slow."}, rt.Limits...)
	return rt
}

// events is the mask of events to ask this runtime for. A runtime closes the connection on an event it
// does not know, so nothing is asked for that is not needed.
func (rt Runtime) events() api.EventMask {
	var mask api.EventMask
	mask.Set(api.Event_RUN_POD_SANDBOX, api.Event_CREATE_CONTAINER, api.Event_START_CONTAINER)
	if rt.Validates {
		mask.Set(api.Event_VALIDATE_CONTAINER_ADJUSTMENT)
	}
	return mask
}
