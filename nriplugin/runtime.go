// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"fmt"
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
}

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

// identify looks a runtime up in the version table. A runtime or version it does not know is taken to be
// newer than the table.
func identify(name, version string) (Runtime, error) {
	rt := Runtime{Name: name, Version: version}
	r, known := parseRelease(version)
	if !known {
		return rt, nil
	}
	unsupported := func(why string) (Runtime, error) { return rt, &Unsupported{name, version, why} }
	switch strings.ToLower(strings.ReplaceAll(name, "-", "")) {
	case "containerd":
		switch {
		case r.before(1, 7, 26):
			return unsupported("its NRI loses pods while a plugin connects; upgrade to 1.7.26, 2.2.6, 2.3.3 or newer")
		case r.before(2, 0, 0):
			return rt, nil
		case r.before(2, 0, 3):
			return unsupported("its NRI loses pods while a plugin connects; upgrade to 2.2.6, 2.3.3 or newer")
		}
		fixed := !r.before(2, 3, 3) || (r[1] == 2 && !r.before(2, 2, 6))
		rt.RefuseLate = !fixed
	case "crio":
		if r.before(1, 30, 0) {
			return unsupported("its NRI is off by default and too old; upgrade to 1.34 or newer")
		}
	}
	return rt, nil
}

// events is the mask of events to ask this runtime for. A runtime closes the connection on an event it
// does not know, so nothing is asked for that is not needed.
func (rt Runtime) events() api.EventMask {
	var mask api.EventMask
	mask.Set(api.Event_RUN_POD_SANDBOX)
	if rt.RefuseLate {
		mask.Set(api.Event_CREATE_CONTAINER, api.Event_REMOVE_POD_SANDBOX)
	}
	return mask
}
