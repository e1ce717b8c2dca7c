// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
)

// failing is a pod that is refused in a new sandbox each time.
func failing(name, why string) Outcome {
	return Outcome{Pod: rules.Pod{Namespace: "shop", Name: name}, Trigger: SandboxStarted, Result: Failed, Said: lifecycle.EventBlocked, Err: errors.New(why)}
}

func TestRepeatedLine(t *testing.T) {
	var out bytes.Buffer
	record, flush := Log(slog.New(slog.NewTextHandler(&out, nil)), func() {})
	at := time.Unix(1_000_000, 0)
	for i := range 4 {
		id := fmt.Sprint("sandbox-", i) // a new one for each try is no news
		o := failing("web", "why: "+id)
		o.Pod.SandboxID = id
		o.Began, o.Took, at = at, time.Second, at.Add(25*time.Second)
		record(o)
	}
	late := failing("web", "why")
	late.Result, late.Said = Unprotected, lifecycle.EventStopped
	record(late)
	flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || strings.Contains(lines[0], "repeated") || !strings.Contains(lines[1], " repeated=2") || strings.Contains(lines[1], "error=") ||
		!strings.Contains(lines[2], "event=pod_stopped") || !strings.Contains(lines[2], " error=why") {
		t.Errorf("got %s", out.String())
	}
}
