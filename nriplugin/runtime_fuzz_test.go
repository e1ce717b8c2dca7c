// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
)

// A runtime says what it likes. It is refused with its version, or used; and what is promised of it goes with
// what it can do.
func FuzzIdentify(f *testing.F) {
	for _, seed := range [][2]string{{"containerd", "v2.4.2"}, {"containerd", "1.7.26+unknown"}, {"cri-o", "1.36.0"}, {"CRIO", "1.29"}, {"containerd", "2"},
		{"containerd", "v99999999999999999999.1"}, {"", ""}, {"containerd", "2.3.3-rc.1"}, {"containerd", "v2.0.3\n"}, {"runtime", "1.0.0"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, name, version string) {
		rt, err := Identify(name, version)
		if err != nil {
			var unsupported *Unsupported
			if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), version) || !strings.Contains(err.Error(), "upgrade") {
				t.Errorf("%q %q: %v", name, version, err)
			}
			return
		}
		if (rt.Tier == Guaranteed) != (rt.Validates && !rt.RefuseLate && !rt.guessed) || rt.Why == "" || rt.String() != name+" "+version {
			t.Errorf("%q %q: %+v", name, version, rt)
		}
		if rt.Tier == BestEffort && len(rt.Limits) == 0 {
			t.Errorf("%q %q: best effort without a word", name, version)
		}
		if mask := rt.events(); !mask.IsSet(api.Event_RUN_POD_SANDBOX) || !mask.IsSet(api.Event_CREATE_CONTAINER) ||
			mask.IsSet(api.Event_VALIDATE_CONTAINER_ADJUSTMENT) != rt.Validates {
			t.Errorf("%q %q: mask %s", name, version, mask.PrettyString())
		}
		if r, ok := parseRelease(version); ok {
			again, ok := parseRelease(fmt.Sprintf("v%d.%d.%d", r[0], r[1], r[2]))
			if !ok || again != r || r.before(r[0], r[1], r[2]) {
				t.Errorf("%q is read as %v, and that as %v", version, r, again)
			}
		}
	})
}
