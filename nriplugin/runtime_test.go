// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
)

// The events of the two masks by their bits on the wire: a mask with one bit too many costs the session.
const (
	refuseEarlyMask = 1 << 0             // RunPodSandbox
	refuseLateMask  = 1<<0 | 1<<2 | 1<<3 // and RemovePodSandbox, CreateContainer
)

func TestIdentify(t *testing.T) {
	const (
		early = iota
		late
		never
	)
	for _, test := range []struct {
		name, version string
		want          int
	}{
		{"containerd", "1.6.39", never},
		{"containerd", "1.7.0", never},
		{"containerd", "v1.7.25", never},
		{"containerd", "v1.7.26", early},
		{"containerd", "1.7.35", early},
		{"containerd", "v1.7.35-4-g0123abc", early},
		{"containerd", "v2.0.0-rc.1", never},
		{"containerd", "v2.0.2", never},
		{"containerd", "v2.0.3", late},
		{"containerd", "v2.1.0", late},
		{"containerd", "v2.1.99", late},
		{"containerd", "2.2.0", late},
		{"containerd", "v2.2.5", late},
		{"containerd", "v2.2.6", early},
		{"containerd", "v2.2.10", early},
		{"containerd", "v2.3.0", late},
		{"containerd", "v2.3.2", late},
		{"containerd", "v2.3.3", early},
		{"containerd", "v2.3.10", early},
		{"containerd", "v2.4.2", early},
		{"containerd", "2.4.2+unknown", early},
		{"containerd", "v2.4", early},
		{"containerd", "3.0", early},
		{"containerd", "v10.0.0", early},
		{"Containerd", "v2.2.5", late},
		{"cri-o", "1.29.9", never},
		{"CRI-O", "1.29.9", never},
		{"crio", "1.29.9", never},
		{"cri-o", "1.30.0", early},
		{"CRI-O", "1.30.0", early},
		{"crio", "1.30.0", early},
		{"cri-o", "1.36.0", early},
		{"CRI-O", "1.36.0", early},
		{"crio", "1.36.0", early},
		// What the table does not know is taken to be newer than the table.
		{"other", "0.1.0", early},
		{"", "", early},
		{"containerd", "", early},
		{"containerd", "main", early},
		{"containerd", "2", early},
		{"containerd", "v2.x.1", early},
		{"containerd", "99999999999999999999.0.0", early},
		{"containerd", " 1.6.0", early},
	} {
		t.Run(test.name+" "+test.version, func(t *testing.T) {
			rt, err := identify(test.name, test.version)
			if rt.Name != test.name || rt.Version != test.version {
				t.Errorf("it says it is %s %s", rt.Name, rt.Version)
			}
			if test.want == never {
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
			mask := api.EventMask(refuseEarlyMask)
			if test.want == late {
				mask = refuseLateMask
			}
			if rt.RefuseLate != (test.want == late) || rt.events() != mask {
				t.Errorf("RefuseLate %v, events %b; want %v, %b", rt.RefuseLate, rt.events(), test.want == late, mask)
			}
		})
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
	for event, bit := range map[api.Event]int{api.Event_RUN_POD_SANDBOX: 0, api.Event_REMOVE_POD_SANDBOX: 2, api.Event_CREATE_CONTAINER: 3} {
		if int(event) != bit+1 {
			t.Errorf("%s is %d", event, event)
		}
	}
}
