// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
)

// The events of the two masks by their bits on the wire: a mask with one bit too many costs the session.
const (
	plainMask     = 1<<0 | 1<<3 | 1<<5 // RunPodSandbox, CreateContainer, StartContainer
	validatedMask = plainMask | 1<<13  // and ValidateContainerAdjustment
)

// The version table: what meshnetd is told by every runtime, and what it makes of it.
func TestIdentify(t *testing.T) {
	const never = Tier("") // refused
	type traits struct {
		tier                       Tier
		late, validates, tellsUser bool
	}
	var (
		plain   = traits{tier: BestEffort}
		late    = traits{tier: BestEffort, late: true}
		reduced = traits{tier: Reduced, late: true, validates: true}
		told    = traits{tier: Reduced, late: true, validates: true, tellsUser: true}
		kept    = traits{tier: Guaranteed, validates: true}
		all     = traits{tier: Guaranteed, validates: true, tellsUser: true}
		guessed = traits{tier: BestEffort, validates: true}
		refused = traits{tier: never}
	)
	for _, test := range []struct {
		name, version string
		want          traits
	}{
		{"containerd", "1.6.39", refused},
		{"containerd", "1.7.0", refused},
		{"containerd", "v1.7.6", refused},
		{"containerd", "v1.7.15", refused},
		{"containerd", "v1.7.16", refused},
		{"containerd", "v1.7.25", refused},
		{"containerd", "v1.7.26", plain},
		{"containerd", "1.7.35", plain},
		{"containerd", "v1.7.35-4-g0123abc", plain},
		{"containerd", "v2.0.0-rc.1", refused},
		{"containerd", "v2.0.0", refused},
		{"containerd", "v2.0.2", refused},
		{"containerd", "v2.0.3", late},
		{"containerd", "v2.0.99", late},
		{"containerd", "v2.1.0", late},
		{"containerd", "v2.1.99", late},
		{"containerd", "2.2.0", reduced},
		{"containerd", "v2.2.5", reduced},
		{"containerd", "v2.2.6", kept},
		{"containerd", "v2.2.10", kept},
		{"containerd", "v2.3.0-rc.1", told},
		{"containerd", "v2.3.0", told},
		{"containerd", "v2.3.2", told},
		{"containerd", "v2.3.3", all},
		{"containerd", "v2.3.10", all},
		{"containerd", "v2.4.0", all},
		{"containerd", "v2.4.2", all},
		{"containerd", "2.4.2+unknown", all},
		{"containerd", "v2.4", all},
		{"containerd", "v2.5.0", all},
		{"containerd", "3.0", all},
		{"containerd", "v10.0.0", all},
		{"Containerd", "v2.2.5", reduced},
		{"cri-o", "1.26.0", refused},
		{"cri-o", "1.27.0", refused},
		{"cri-o", "1.28.11", refused},
		{"cri-o", "1.29.9", refused},
		{"CRI-O", "1.29.9", refused},
		{"crio", "1.29.9", refused},
		{"cri-o", "1.30.0", plain},
		{"CRI-O", "1.30.0", plain},
		{"crio", "1.30.0", plain},
		{"cri-o", "1.31.0", plain},
		{"cri-o", "1.32.0", plain},
		{"cri-o", "1.33.9", plain},
		{"cri-o", "1.34.0", kept},
		{"cri-o", "1.35.5", kept},
		{"cri-o", "1.36.0", all},
		{"CRI-O", "1.36.0", all},
		{"crio", "1.36.0", all},
		{"cri-o", "1.37.0", all},
		{"cri-o", "2.0.0", all},
		// What the table does not know is asked for everything, and relied on for nothing.
		{"other", "0.1.0", guessed},
		{"other", "2.4.2", guessed},
		{"", "", guessed},
		{"containerd", "", guessed},
		{"containerd", "main", guessed},
		{"containerd", "2", guessed},
		{"containerd", "v2.x.1", guessed},
		{"containerd", "99999999999999999999.0.0", guessed},
		{"containerd", " 1.6.0", guessed},
		{"cri-o", "devel", guessed},
	} {
		t.Run(test.name+" "+test.version, func(t *testing.T) {
			rt, err := Identify(test.name, test.version)
			if rt.Name != test.name || rt.Version != test.version {
				t.Errorf("it says it is %s %s", rt.Name, rt.Version)
			}
			if test.want.tier == never {
				var unsupported *Unsupported
				if !errors.As(err, &unsupported) {
					t.Fatalf("error %v, want an *Unsupported", err)
				}
				// Whoever reads it must see what they have and what to get.
				for _, part := range []string{test.name, test.version, "upgrade to"} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%q does not say %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := (traits{rt.Tier, rt.RefuseLate, rt.Validates, rt.TellsUser}); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if heeds := strings.EqualFold(test.name, "containerd") && !rt.guessed; heeds != (rt.Unheeded == "") {
				t.Errorf("a refused start: %q", rt.Unheeded)
			}
			mask := api.EventMask(plainMask)
			if test.want.validates {
				mask = validatedMask
			}
			if rt.events() != mask {
				t.Errorf("events %b, want %b", rt.events(), mask)
			}
			if rt.guessed != (test.want == guessed) {
				t.Errorf("guessed: %v", rt.guessed)
			}
		})
	}
}

// What the operator reads of a runtime names what it lacks, and what to upgrade to.
func TestWhatTheOperatorReads(t *testing.T) {
	for _, test := range []struct {
		name, version string
		why           string
		limits        []string // a part of each, in order
	}{
		{"containerd", "v1.7.35", "no validators",
			[]string{"starts without meshnetd when that has crashed, is away or is too slow; upgrade to containerd 2.2.6, 2.3.3 or newer.",
				"proxy.istio.io/overrides and the configuration; upgrade to containerd 2.3.3 or newer."}},
		{"containerd", "v2.1.0", "no validators",
			[]string{"starts without meshnetd", "its containers are refused, since", "proxy_identity sees nothing"}},
		{"containerd", "v2.2.0", "refused at its first container; it holds only where the runtime's default validator is on",
			[]string{"upgrade to containerd 2.2.6, 2.3.3 or newer.", "proxy_identity sees nothing"}},
		{"containerd", "v2.3.0", "which containers of the mesh show.", []string{"its containers are refused, since"}},
		{"containerd", "v2.2.6", "the plugin is required, which containers of the mesh show.", []string{"upgrade to containerd 2.3.3 or newer."}},
		{"containerd", "v2.3.3", "the plugin is required, which containers of the mesh show.", nil},
		{"cri-o", "1.33.0", "no validators", []string{"upgrade to CRI-O 1.34 or newer.", "upgrade to CRI-O 1.36 or newer."}},
		{"cri-o", "1.35.0", "which containers of the mesh show.", []string{"upgrade to CRI-O 1.36 or newer."}},
		{"cri-o", "1.36.0", "which containers of the mesh show.", nil},
		{"other", "1.0.0", "does not know this runtime", []string{"use containerd 2.2.6", "may not be told"}},
	} {
		rt, err := Identify(test.name, test.version)
		if err != nil || !strings.Contains(rt.Why, test.why) || !strings.HasSuffix(rt.Why, ".") {
			t.Errorf("%s: %v, why is %q, want %q", rt, err, rt.Why, test.why)
		}
		if len(rt.Limits) != len(test.limits) {
			t.Errorf("%s: limits %q, want %q", rt, rt.Limits, test.limits)
			continue
		}
		for i, part := range test.limits {
			if !strings.Contains(rt.Limits[i], part) || !strings.HasSuffix(rt.Limits[i], ".") {
				t.Errorf("%s: limit %d is %q, want %q", rt, i, rt.Limits[i], part)
			}
		}
		if quiet := rt.level() == slog.LevelInfo; quiet != (rt.Tier == Guaranteed) {
			t.Errorf("%s: %s is logged at level %s", rt, rt.Tier, rt.level())
		}
	}
}

func TestParseRelease(t *testing.T) {
	for version, want := range map[string]release{
		"1.36.0":               {1, 36, 0},
		"v2.4.2":               {2, 4, 2},
		"2.4.2+unknown":        {2, 4, 2},
		"v2.5.0-beta.0-7-gabc": {2, 5, 0},
		"3.0":                  {3, 0, 0},
	} {
		if got, ok := parseRelease(version); !ok || got != want {
			t.Errorf("%s is %v, %v; want %v", version, got, ok, want)
		}
	}
	for _, version := range []string{"", "v", "2", "v2.", "two.four", "V2.4.2"} {
		if got, ok := parseRelease(version); ok {
			t.Errorf("%q was read as %v", version, got)
		}
	}
}

func TestReleaseOrder(t *testing.T) {
	order := []release{{1, 7, 26}, {1, 30, 0}, {2, 0, 0}, {2, 0, 3}, {2, 2, 6}, {2, 2, 10}, {2, 10, 0}, {10, 0, 0}}
	for i, a := range order {
		for j, b := range order {
			if got := a.before(b[0], b[1], b[2]); got != (i < j) {
				t.Errorf("%v before %v: %v", a, b, got)
			}
		}
	}
}

func TestEventBits(t *testing.T) {
	// The bits above are the ones of the protocol, where events count from 1.
	for event, bit := range map[api.Event]int{api.Event_RUN_POD_SANDBOX: 0, api.Event_CREATE_CONTAINER: 3,
		api.Event_VALIDATE_CONTAINER_ADJUSTMENT: 13} {
		if int(event) != bit+1 {
			t.Errorf("%s is %d", event, event)
		}
	}
}
