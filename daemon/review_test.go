// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

func reviewed(r rules.Review) rules.Container {
	c := app
	c.Review = &r
	return c
}

// What a pod's containers show of what keeps them back, and what is said of it once.
func TestLoose(t *testing.T) {
	held, off := rules.Review{Validator: true, Required: true}, rules.Review{Required: true}
	bare := rules.Review{Validator: true}
	for name, tt := range map[string]struct {
		reviews []rules.Review
		node    bool // the runtime requires the plugin
		want    memory.Loose
		events  int
	}{
		"nothing was shown":             {nil, false, "", 0},
		"held":                          {[]rules.Review{held, held}, false, "", 0},
		"the validator is off":          {[]rules.Review{off, off}, false, memory.ValidatorOff, 1},
		"and on by now":                 {[]rules.Review{off, held}, false, "", 1},
		"off by now":                    {[]rules.Review{held, off}, true, memory.ValidatorOff, 0},
		"not required":                  {[]rules.Review{bare, bare}, false, memory.NotRequired, 1},
		"not required by one container": {[]rules.Review{held, bare, held}, false, memory.NotRequired, 1},
		"required by the runtime":       {[]rules.Review{bare}, true, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			e, r := newEnforcer(t, newMemory())
			e.with(func(p *policy.Policy) { p.Required = tt.node })
			ctx := limited(t, patience)
			pod := sandbox(t, "web")
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			for _, review := range tt.reviews {
				if o := e.Validate(ctx, pod, reviewed(review)); o.Error() != nil {
					t.Fatal(o.Error())
				}
			}
			sb, _ := e.View().Sandbox(pod.SandboxID)
			if got := e.View().Loose(sb); got != tt.want || (got.Why() == "") != (tt.want == "") {
				t.Errorf("%q (%s), want %q", got, got.Why(), tt.want)
			}
			events := slices.DeleteFunc(r.events(), func(event string) bool { return event != outcome.EventLoose })
			if len(events) != tt.events {
				t.Errorf("recorded %v", r.events())
			}
		})
	}
}

// Who changed what is named, and hooks are refused where the node says so; what cannot lead around the rules is no news.
func TestNeighboursAreNamed(t *testing.T) {
	hooks := rules.Adjustment{Plugin: "50-other", Field: rules.ChangedHooks}
	net := rules.Adjustment{Plugin: "51-net", Field: rules.ChangedNetDevices, What: "eth1"}
	env := rules.Adjustment{Plugin: "50-other", Field: rules.ChangedEnvironment, What: "A"}
	for name, tt := range map[string]struct {
		hooks   config.Hooks
		changes []rules.Adjustment
		want    string // of the event
		refused string
	}{
		"environment":     {config.HooksRefuse, []rules.Adjustment{env}, "", ""},
		"hooks":           {config.HooksReport, []rules.Adjustment{hooks, env}, "50-other changed hooks", ""},
		"refused hooks":   {config.HooksRefuse, []rules.Adjustment{hooks}, "", "container app of pod default/web: 50-other changed hooks, and neighbours.hooks refuses"},
		"network devices": {config.HooksRefuse, []rules.Adjustment{net}, "51-net changed network devices (eth1)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, r := newEnforcer(t, newMemory())
			e.with(func(p *policy.Policy) { p.Hooks = tt.hooks })
			ctx := limited(t, patience)
			pod := sandbox(t, "web")
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			o := e.Validate(ctx, pod, reviewed(rules.Review{Validator: true, Required: true, Changes: tt.changes}))
			if err := o.Error(); (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Errorf("got %v, want %q", err, tt.refused)
			}
			said := ""
			r.mu.Lock()
			for _, o := range r.outcomes {
				if o.Event() == outcome.EventNeighbour {
					said += o.Message()
				}
			}
			r.mu.Unlock()
			if (said == "") != (tt.want == "") || !strings.HasSuffix(said, tt.want) {
				t.Errorf("said %q, want %q", said, tt.want)
			}
			if sb, _ := e.View().Sandbox(pod.SandboxID); !slices.Equal(sb.Changes, tt.changes) {
				t.Errorf("remembered: %v", sb.Changes)
			}
		})
	}
}
