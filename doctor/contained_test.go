// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// contained is a good node as meshnetd's own container shows it.
func contained() Facts {
	f := good()
	missing := &fs.PathError{Op: "dial", Path: "/x.sock", Err: fs.ErrNotExist}
	f.Contained = true
	f.Runtime = Runtime{Tried: []Tried{{Socket: "/run/containerd/containerd.sock", Err: missing}, {Socket: "/var/run/crio/crio.sock", Err: missing}}}
	f.Settings = Settings{File: "/etc/containerd/config.toml", Missing: true, Socket: "/var/run/nri/nri.sock", PluginDir: "/opt/nri/plugins",
		Registration: 5 * time.Second, Request: 2 * time.Second, CNIDir: "/etc/cni/net.d"}
	f.NRI.Plugins, f.Node.Networks, f.Node.NetNSMount.Propagation = nil, nil, ""
	return f
}

// What the node has and its container is not given is neither good nor bad: it is to be looked for on the node.
func TestWithinTheContainer(t *testing.T) {
	unseenOf := func(f Facts) []string {
		r := Judge(f)
		sentences(t, r)
		var checks []string
		for _, finding := range r.Findings {
			if finding.Level == Unseen {
				checks = append(checks, finding.Check)
				if finding.Do != "Run meshnetd doctor on the node." {
					t.Errorf("%s: %s", finding.Check, finding.Do)
				}
			} else if finding.Level != OK && finding.Level != Info || slices.Contains([]string{"runtime-found", "cni-redirect", "nri-plugins", "runtime-config"}, finding.Check) && f.Runtime.Socket == "" {
				t.Errorf("%s %s: %s", finding.Level, finding.Check, finding.Found)
			}
		}
		slices.Sort(checks)
		return checks
	}
	f := contained()
	if diff := cmp.Diff([]string{"cni-redirect", "netns-propagation", "nri-plugins", "runtime-config", "runtime-found", "validator-enabled"}, unseenOf(f)); diff != "" {
		t.Errorf("unseen (-want +got):\n%s", diff)
	}
	r := Judge(f)
	var text strings.Builder
	if err := r.Text(&text); err != nil || r.Exit() != 0 || !strings.Contains(text.String(), "6 not seen from here: what is seen from this container is fine") {
		t.Errorf("exit %d, %v: %s", r.Exit(), err, text.String())
	}
	f.Runtime = good().Runtime // cri.directory of the chart
	if diff := cmp.Diff([]string{"cni-redirect", "netns-propagation", "nri-plugins", "runtime-config", "validator-enabled"}, unseenOf(f)); diff != "" {
		t.Errorf("unseen, with CRI (-want +got):\n%s", diff)
	}
	f.Runtime = Runtime{Tried: []Tried{{Socket: "/run/containerd/containerd.sock", Err: errOther}}}
	if r := Judge(f); r.Exit() != 2 {
		t.Errorf("a socket that is there, and does not answer: exit %d", r.Exit())
	}
}
