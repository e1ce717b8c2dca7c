// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// While meshnetd is replaced, pods of the mesh start one after the other, and each app's first connection is the
// proxy's.
func (s *story) upgrades(t *testing.T) {
	s.tag(t, "kube", "next")
	begun := time.Now()
	done := make(chan error, 1)
	sources := root(t)
	go func() { done <- s.release(t.Context(), sources, "next") }()
	started := 0
	for replacing := true; replacing; started++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			replacing = false // and one more, with the new one alone
		default:
		}
		name := fmt.Sprintf("during-%d", started)
		s.apply(t, meshed(name, ""))
		s.ready(t, name)
		s.byTheProxy(t, name)
		s.kubectl(t, "-n", "shop", "delete", "pod", name, "--now", "--wait=false")
	}
	failed := s.kubectl(t, "-n", "shop", "get", "events", "--field-selector=type=Warning", "-o",
		`jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}{"\n"}{end}`)
	refused := 0
	for line := range strings.Lines(failed) {
		if strings.HasPrefix(line, "during-") && !strings.Contains(line, "Unhealthy") {
			refused++
			t.Log(strings.TrimSpace(line))
		}
	}
	t.Logf("%d pods started in %s, %d starts were refused and tried again", started, time.Since(begun).Round(time.Second), refused)
	if pods := s.kubectl(t, "-n", "meshnetd-system", "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"); pods != "localhost/meshnetd/meshnetd:next" {
		t.Errorf("meshnetd runs as %q", pods)
	}
}

// tag gives the image another name, which is another pod to the DaemonSet.
func (s *story) tag(t *testing.T, from, to string) {
	t.Helper()
	const name = "localhost/meshnetd/meshnetd:"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.c.Ctr(ctx, "images", "tag", name+from, name+to); err != nil {
		t.Fatal(err)
	}
}
