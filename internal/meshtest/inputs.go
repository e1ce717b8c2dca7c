// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// Inputs holds a mesh to testdata/inputs.txt, which sets beside each other what the mesh's own reader makes of a value
// and what ours does. Its lines are
//
//	KEY | VALUE | the mesh's | ours | the reason where they differ
//
// VALUE is a Go string. A reader's column is "refused", or a value as which it reads this one. pod returns a pod that
// gives the key the value.
func Inputs(t *testing.T, mesh rules.Mesh, pod func(key, value string) rules.Pod) {
	t.Helper()
	file, err := os.ReadFile("testdata/inputs.txt")
	if err != nil {
		t.Fatal(err)
	}
	const columns = 5
	n := 0
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		n++
		row := strings.Split(line, " | ")
		if len(row) < columns-1 || len(row) > columns {
			t.Errorf("%s: %d columns", line, len(row))
			continue
		}
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		if differ := row[2] != row[3]; differ != (len(row) == columns) {
			t.Errorf("%s: readers that differ and no reason, or the reverse", line)
		}
		t.Run(row[0]+" "+row[1], func(t *testing.T) {
			read := func(text string) rules.Decision {
				value, err := strconv.Unquote(text)
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				return mesh.Decide(pod(row[0], value))
			}
			got := read(row[1])
			if row[3] == "refused" {
				if got.Action != rules.Reject || got.Reason != rules.ReasonBadInput {
					t.Errorf("%s (%s): %s", got.Action, got.Reason, got.Detail)
				}
				return
			}
			if want := read(row[3]); got.Action != rules.Enrol || intent(t, got) != intent(t, want) {
				t.Errorf("%s (%s): %s\ngot  %s\nwant %s", got.Action, got.Reason, got.Detail, intent(t, got), intent(t, want))
			}
		})
	}
	if n == 0 {
		t.Error("no inputs")
	}
}

func intent(t *testing.T, d rules.Decision) string {
	t.Helper()
	text, err := json.Marshal(d.Intent)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
