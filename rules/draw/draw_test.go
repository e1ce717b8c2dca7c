// SPDX-License-Identifier: Apache-2.0

package draw

import (
	"encoding/xml"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// small is a plan with each kind of end.
func small() rules.Plan {
	var b rules.Builder
	tcp := rules.Protocol(rules.TCP)
	b.Append("mangle", "PREROUTING", "what is invalid", rules.Drop, rules.InState(rules.StateInvalid))
	b.Append("nat", "OUTPUT", "what the pod sends", rules.Jump("OUT"), tcp)
	b.Append("nat", "OUT", "the proxy's own", rules.Return, rules.OwnerUID(1337))
	b.Append("nat", "OUT", "", rules.Jump("TO_PROXY"), rules.Destination(netip.MustParsePrefix("10.0.0.0/8")))
	b.Append("nat", "TO_PROXY", "to the proxy", rules.Redirect{Port: 15001}, tcp)
	b.Append("filter", "OUTPUT", "no such port", rules.RejectReset, tcp, rules.DestinationPort(rules.TCP, 25))
	return rules.Plan{V4: b.Ruleset(rules.IPv4)}
}

func wayOf(t *testing.T, plan rules.Plan, to string) *rules.Path {
	t.Helper()
	path, err := effect.Trace(plan, rules.Packet{Protocol: rules.TCP, Socket: true, UID: 1000, Out: "eth0",
		Source: netip.MustParseAddrPort("10.0.0.7:40000"), Destination: netip.MustParseAddrPort(to)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &path
}

func TestPictures(t *testing.T) {
	plan := small()
	for name, p := range map[string]Picture{
		"plan":   {Title: "pod shop/web", Lines: []string{"redirect"}, Plan: plan, Around: []string{"UDP"}},
		"proxy":  {Title: "pod shop/web", Plan: plan, Way: wayOf(t, plan, "10.0.0.1:80")},
		"around": {Title: "pod shop/web", Plan: plan, Way: wayOf(t, plan, "203.0.113.10:80")},
		"none":   {Title: "pod shop/plain", Lines: []string{"skip"}},
	} {
		t.Run(name, func(t *testing.T) {
			golden.Check(t, name+".svg", p.SVG())
			golden.Check(t, name+".dot", p.DOT())
		})
	}
}

// Every rule is drawn, and every rule that ends a packet leads somewhere.
func TestWhole(t *testing.T) {
	plan := small()
	drawn := 0
	for _, s := range (Picture{Plan: plan}).sheets() {
		for _, b := range s.boxes {
			for _, r := range b.rows {
				if r.target == "" {
					continue
				}
				drawn++
				if r.to == "" {
					t.Errorf("%s: %s leads nowhere", b.id, r.text)
				}
			}
		}
	}
	if drawn != plan.Rules() {
		t.Errorf("%d of %d rules", drawn, plan.Rules())
	}
}

// A name is a stranger's text: it ends no element, opens none, and brings no character that XML has not.
func TestHostile(t *testing.T) {
	const hostile = "</text><script>alert(1)</script>\x00\x1b[31m\"'&<!-- ]]> \n\u202e"
	p := Picture{Title: hostile, Lines: []string{hostile}, Around: []string{hostile}, Plan: small()}
	for _, table := range p.Plan.V4.Tables {
		r := &table.Chains[0].Rules[0]
		r.Why, r.Match = hostile, append(r.Match, rules.Comment(hostile))
	}
	decoder := xml.NewDecoder(strings.NewReader(p.SVG()))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && !strings.Contains(" svg title style rect g text path ", " "+start.Name.Local+" ") {
			t.Errorf("an element %s", start.Name.Local)
		}
	}
	p.Title, p.Lines = "", nil // which are within quotes
	if dot := p.DOT(); strings.Contains(dot, "\x1b") || strings.Contains(dot, "<script>") || !strings.Contains(dot, "&lt;script&gt;") {
		t.Errorf("a stranger's text is in the graph as it is:\n%s", dot)
	}
	if got, want := quoted("a\"b\\c\nd", "e"), `"a\"b\\c d\ne"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
