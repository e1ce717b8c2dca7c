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
	page, err := os.ReadFile(filepath.Join(kube.Root(t), "docs", "istio.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n## "+part+"\n")
	if !found {
		t.Fatalf("docs/istio.md has no part %q", part)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for _, commands := range block.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(commands[1]) {
			if err := m.command(t, strings.Fields(line)); err != nil {
				t.Fatalf("docs/istio.md, %s: %s: %v", part, strings.TrimSpace(line), err)
			}
		}
	}
}

// command runs one of the page's, with what this machine needs beside.
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
		_, err := m.C.Helm(ctx, m.Helm, words[1:]...)
		return err
	case "istioctl install":
		if err := m.install(ctx, t, words[2:]...); err != nil || !m.running {
			return err
		}
		m.injects(t, map[int]string{2: "istio-init istio-proxy", 4: "istio-validation istio-proxy", 6: "istio-proxy"}[len(words)])
		return nil
	}
	if words[0] != "kubectl" {
		return errors.New("the test does not know it")
	}
	_, err := m.C.Kubectl(ctx, "", words[1:]...)
	return err
}

// injects waits until istiod's webhook gives pods these init containers.
func (m *mesh) injects(t *testing.T, containers string) {
	t.Helper()
	m.WaitInput(t, "="+containers+"=", pod{namespace: "transparent", name: "tried"}.manifest(), "create", "--dry-run=server", "-f", "-",
		"-o", "jsonpath=={.spec.initContainers[*].name}=")
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
