// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

var block = regexp.MustCompile("(?s)```sh\n(.*?)```")

// guide runs the commands in a part of docs/istio.md as they stand there.
func (m *mesh) guide(t *testing.T, part string) {
	t.Helper()
	for _, commands := range steps(t, "istio.md", part) {
		m.follow(t, commands)
	}
}

// steps are the blocks of commands in a part of a page, in their order.
func steps(t *testing.T, page, part string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(kube.Root(t), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+part+"\n")
	if !found {
		t.Fatalf("docs/%s has no part %q", page, part)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var all []string
	for _, commands := range block.FindAllStringSubmatch(rest, -1) {
		all = append(all, strings.TrimSpace(commands[1]))
	}
	return all
}

// follow runs commands, one a line.
func (m *mesh) follow(t *testing.T, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		if err := m.command(t, strings.Fields(line)); err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(line), err)
		}
	}
}

// command runs one of a page's, with what this machine needs beside.
func (m *mesh) command(t *testing.T, words []string) error {
	t.Helper()
	for i, word := range words {
		if strings.HasPrefix(word, "packaging/") {
			words[i] = filepath.Join(kube.Root(t), word)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	switch strings.Join(words[:2], " ") {
	case "helm upgrade":
		for key, value := range m.Values("kube") {
			words = append(words, "--set", key+"="+value)
		}
		_, err := m.C.Helm(ctx, m.Helm, words[1:]...)
		return err
	case "helm uninstall":
		_, err := m.C.Helm(ctx, m.Helm, append(words[1:], "--wait")...)
		return err
	case "istioctl install":
		m.injector = injection(strings.Join(words[2:], " "))
		if err := m.install(ctx, t, words[2:]...); err != nil || !m.running {
			return err
		}
		m.injects(t, m.injector)
		return nil
	}
	if words[0] != "kubectl" {
		return errors.New("the test does not know it")
	}
	_, err := m.C.Kubectl(ctx, "", words[1:]...)
	if words[len(words)-1] == "doctor" { // its code is about all of the node, of which a container does not see much
		err = nil
	}
	return err
}

// injection is what pods have after an istioctl install with these arguments: init containers, and the annotation.
func injection(args string) string {
	ours := strings.Contains(args, "packaging/istio/istioctl.yaml")
	containers, required := "istio-init istio-proxy", ""
	switch {
	case strings.Contains(args, "without-validation"):
		containers = "istio-proxy"
	case ours || strings.Contains(args, "components.cni.enabled=true"):
		containers = "istio-validation istio-proxy"
	}
	if ours {
		required = `["meshnetd"]`
	}
	return containers + "=" + required
}

// injects waits until istiod's webhook gives pods this, as injection says it.
func (m *mesh) injects(t *testing.T, want string) {
	t.Helper()
	m.WaitInput(t, "="+want+"=", pod{namespace: "transparent", name: "tried"}.manifest(), "create", "--dry-run=server", "-f", "-",
		"-o", `jsonpath=={.spec.initContainers[*].name}={.metadata.annotations.required-plugins\.noderesource\.dev}=`)
}

// poll runs kubectl until it succeeds.
func (m *mesh) poll(ctx context.Context, input string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, kube.Patience)
	defer cancel()
	var last error
	if err := lab.Poll(ctx, func() (bool, error) {
		_, last = m.C.Kubectl(ctx, input, args...)
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return nil
}
