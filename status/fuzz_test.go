// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode"
)

// Whatever answers on the socket: it is no status, or it can be told, to people without harm to their terminal
// and to programs as it is.
func FuzzStatus(f *testing.F) {
	text, err := json.Marshal(complete(full()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, seed := range []string{"{}", "null", "[]", `{"runtime":{"limits":["a\nb","\u001b[31m"]},"connected":true}`, `{"sandboxes":[{"id":"é","tookMilliseconds":1e300}]}`,
		`{"audit":{"tookMilliseconds":-0.0004}}`, `{"audit":{"tookMilliseconds":"1"}}`, `{"since":"2026-11-21T00:00:00+25:00"}`, `{"pods":{"\t":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Status
		if err := json.Unmarshal(text, &s); err != nil {
			return
		}
		var out bytes.Buffer
		s.Text(&out, at(30, 0))
		for _, r := range out.String() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("a terminal gets %q", r)
			}
		}
		told, err := json.Marshal(complete(s))
		if err != nil {
			return // a time that JSON has no form for
		}
		var again Status
		if err := json.Unmarshal(told, &again); err != nil {
			t.Fatalf("told as %s: %v", told, err)
		}
		if retold, err := json.Marshal(again); err != nil || !bytes.Equal(retold, told) {
			t.Errorf("told as\n%s\nread and told again as\n%s, %v", told, retold, err)
		}
	})
}
