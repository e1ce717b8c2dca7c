// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// Whatever is typed: it is refused with a sentence, or it is the packet that was asked for, and can be traced.
func FuzzTraceQuestion(f *testing.F) {
	for _, seed := range []string{"tcp 203.0.113.10:443", "udp [2001:db8::1]:53 fd00::1", "tcp :80", "tcp 127.0.0.1:0 127.0.0.6", "tcp [::ffff:1.2.3.4]:80 1.2.3.4",
		"tcp [fe80::1%eth0]:80", "tcp 0.0.0.0:80", "tcp [::]:1", "udp 1.2.3.4:5 [::1]:6", "tcp 10.0.0.1:80 10.0.0.1:99999", "tcp [::1 [::1]:", "tcp ]:[ ::"} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	interfaces := []rules.Interface{{Name: "lo"}, {Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}}
	plan := plans.DualStack(f)
	f.Fuzz(func(t *testing.T, text string, in bool) {
		words := strings.SplitN(text, " ", 3)
		if len(words) < 2 {
			return
		}
		q := Question{in: in}
		if len(words) == 3 {
			q.source = words[2]
		}
		if _, err := q.Words(words[:2], "pod.yaml"); err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		p, assumed, err := q.packet(interfaces)
		if err != nil {
			t.Fatalf("refused when the pod was known: %v", err)
		}
		if to, err := netip.ParseAddrPort(q.destination); err == nil && netip.AddrPortFrom(to.Addr().Unmap(), to.Port()) != p.Destination {
			t.Errorf("%q is %s", q.destination, p.Destination)
		}
		if p.Protocol != words[0] || (p.Direction == rules.Inbound) != in || len(assumed) == 0 {
			t.Errorf("%+v, %q", p, assumed)
		}
		w, err := q.Answer(Scene{Plan: plan, Interfaces: interfaces})
		if err != nil {
			return // a packet that cannot be, such as one from an address of the loopback
		}
		if document, err := json.Marshal(w); err != nil || w.End.Text == "" || strings.Contains(w.End.Text, "unknown") {
			t.Errorf("%s %v", document, err)
		}
	})
}
