// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"strings"
	"testing"
)

func TestCaptures(t *testing.T) {
	for text, want := range map[string]bool{
		"": false,
		"*nat\n:OUTPUT ACCEPT\n:ISTIO_OUTPUT -\n:ISTIO_REDIRECT -\nCOMMIT":                                                                   false,
		"*nat\n:OUTPUT ACCEPT\n:A -\n:B -\n-A OUTPUT -j A\n-A A -p tcp -j B\n-A B -p tcp -j REDIRECT --to-ports 15001\nCOMMIT":               true,
		"*nat\n:PREROUTING ACCEPT\n:A -\n-A PREROUTING -p tcp -j A\n-A A -p tcp -j REDIRECT --to-ports 15006\nCOMMIT":                        true,
		"*mangle\n:PREROUTING ACCEPT\n-A PREROUTING -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff\nCOMMIT": true,
		"*nat\n:OUTPUT ACCEPT\n-A OUTPUT -p udp -j DNAT --to-destination 127.0.0.1:53\nCOMMIT":                                               true,
		"*nat\n:OUTPUT ACCEPT\n:A -\n-A A -p tcp -j REDIRECT --to-ports 15001\nCOMMIT":                                                       false, // nothing leads there
		"*nat\n:INPUT ACCEPT\n-A INPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT":                                                          false,
		"*nat\n:OUTPUT ACCEPT\n:A -\n-A OUTPUT -j A\n-A A -j RETURN\n-A A -p tcp -j REDIRECT --to-ports 15001\nCOMMIT":                       false, // nothing comes so far
		"*nat\n:OUTPUT ACCEPT\n:A -\n-A OUTPUT -j A\n-A A -d 127.0.0.1/32 -j RETURN\n-A A -p tcp -j REDIRECT --to-ports 15001\nCOMMIT":       true,
		"*nat\n:OUTPUT ACCEPT\n:A -\n:B -\n-A OUTPUT -j A\n-A A -j B\n-A B -j A\nCOMMIT":                                                     false, // round and round
	} {
		set, err := ParseSave(IPv4, strings.NewReader(text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := (Plan{V4: set}).Captures(); got != want {
			t.Errorf("got %v for\n%s", got, text)
		}
		set.Family = IPv6
		if got := (Plan{V6: set}).Captures(); got != want {
			t.Errorf("IPv6: got %v for\n%s", got, text)
		}
	}
}
