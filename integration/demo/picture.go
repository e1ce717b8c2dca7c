// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// times are those of one pod, from the call of RunPodSandbox on; verified is from the call of meshnetd on.
type times struct {
	sandbox, hook, verified, created, connect time.Duration
	rules                                     int
}

// The lanes of the picture, from left to right.
const (
	kubelet = iota
	runtime
	meshnetd
	sandbox
)

const (
	laneWidth, laneTop, stepHeight = 230, 70, 38
	pictureWidth                   = 4*laneWidth + 150
)

// arrow is a step of the story, or a note in a lane where both are the same.
type arrow struct {
	from, to int
	text     string
	at       time.Duration // negative is not measured
	key      bool          // of the moment that matters
}

// picture draws how the pod came to its rules: who asked whom, and when.
func (t times) picture() string {
	const unmeasured = -1
	steps := []arrow{
		{kubelet, runtime, "RunPodSandbox", 0, false},
		{runtime, sandbox, "a network namespace, with its network (CNI)", unmeasured, false},
		{runtime, meshnetd, "NRI: RunPodSandbox", t.hook, false},
		{meshnetd, sandbox, fmt.Sprintf("%d rules, one transaction", t.rules), unmeasured, true},
		{sandbox, meshnetd, "read back: equal to the plan", unmeasured, true},
		{meshnetd, runtime, "go on", t.hook + t.verified, true},
		{runtime, kubelet, "the sandbox is ready", t.sandbox, false},
		{kubelet, runtime, "CreateContainer", unmeasured, false},
		{runtime, meshnetd, "NRI: are the rules still there?", unmeasured, false},
		{runtime, sandbox, "the first container", t.created, false},
		{sandbox, sandbox, "the app connects: to its proxy", t.connect, true},
	}
	var out strings.Builder
	height := laneTop + stepHeight*len(steps) + 50
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">
<title>How a pod comes to its rules, with the times of one run</title>
<style>
svg { --paper: #ffffff; --ink: #1c2128; --dim: #5d6670; --line: #c4ccd4; --key: #0b63c4; --band: #e8f1fb; }
@media (prefers-color-scheme: dark) { svg { --paper: #15191e; --ink: #e4e8ec; --dim: #9aa4af; --line: #46505b; --key: #6cb2ff; --band: #1b2a3a; } }
.paper { fill: var(--paper); } .band { fill: var(--band); } text { font: 13px system-ui, sans-serif; fill: var(--ink); text-anchor: middle; }
.lane { font-weight: 600; font-size: 15px; } .time { fill: var(--dim); text-anchor: end; font-variant-numeric: tabular-nums; } .note { fill: var(--key); font-weight: 600; }
path { stroke: var(--dim); fill: none; stroke-width: 1.4; } path.life { stroke: var(--line); stroke-dasharray: 3 4; } path.key { stroke: var(--key); stroke-width: 2.2; } text.key { fill: var(--key); font-weight: 600; }
</style>
<rect class="paper" width="100%%" height="100%%"/>
`, pictureWidth, height, pictureWidth, height)
	first, last := laneTop+stepHeight*3-stepHeight/2-6, laneTop+stepHeight*6-stepHeight/2-4
	fmt.Fprintf(&out, `<rect class="band" x="0" y="%d" width="100%%" height="%d"/>`+"\n", first, last-first)
	for lane, name := range []string{"kubelet", "containerd", "meshnetd", "the pod's sandbox"} {
		x := laneX(lane)
		fmt.Fprintf(&out, `<text class="lane" x="%d" y="34">%s</text><path class="life" d="M%d 46 L%d %d"/>`+"\n", x, html.EscapeString(name), x, x, height-30)
	}
	for i, step := range steps {
		step.draw(&out, laneTop+stepHeight*i)
	}
	fmt.Fprintf(&out, "<text class=\"time\" style=\"text-anchor: start\" x=\"16\" y=\"%d\">Milliseconds of one run; the distances are not to scale.</text>\n</svg>\n", height-10)
	return out.String()
}

func laneX(lane int) int { return 200 + lane*laneWidth }

func (a arrow) draw(out *strings.Builder, y int) {
	class := ""
	if a.key {
		class = ` class="key"`
	}
	if a.at >= 0 {
		fmt.Fprintf(out, `<text class="time" x="90" y="%d">%.1f</text>`, y+4, float64(a.at.Microseconds())/1000)
	}
	from, to := laneX(a.from), laneX(a.to)
	if a.from == a.to {
		fmt.Fprintf(out, `<path%s d="M%d %d h34 v16 h-28"/><path%s d="M%d %d l8 -5 M%d %d l8 5"/><text%s x="%d" y="%d">%s</text>`+"\n",
			class, from, y-4, class, from+4, y+12, from+4, y+12, class, from+14, y-10, html.EscapeString(a.text))
		return
	}
	head := 8
	if to > from {
		head = -8
	}
	fmt.Fprintf(out, `<path%s d="M%d %d L%d %d m%d -5 L%d %d l%d 5"/><text%s x="%d" y="%d">%s</text>`+"\n",
		class, from, y, to, y, head, to, y, head, class, (from+to)/2, y-6, html.EscapeString(a.text))
}
