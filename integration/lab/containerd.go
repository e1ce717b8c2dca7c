// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The configurations keep away from every default path; the few that cannot
// be moved are named in the package comment.
var (
	//go:embed containerd-2.toml.tmpl
	config2 string
	//go:embed containerd-1.7.toml.tmpl
	config17 string
)

// containerd is one of those that integration/runtimes/build.sh has built.
type containerd struct{ Options }

func (c containerd) program(name string) string {
	return filepath.Join(c.Binaries, string(c.Runtime), name)
}

func (c containerd) keeper() string { return c.program("containerd-shim-runc-v2") }

func (c containerd) check() error {
	for _, program := range []string{c.program("containerd"), c.keeper(), c.program("ctr")} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%s is missing: run integration/runtimes/build.sh %s %s: %w", filepath.Base(program), c.Binaries, c.Runtime, err)
		}
	}
	return nil
}

func (c containerd) configure(l *Lab) ([]string, error) {
	text := config2
	if c.Runtime == Containerd17 {
		text = config17
	}
	// JSON and TOML agree on how strings and lists of strings are written.
	imports, err := json.Marshal(append([]string{}, c.Imports...))
	if err != nil {
		return nil, err
	}
	text = strings.Replace(text, "\nimports = []\n", "\nimports = "+string(imports)+"\n", 1)
	if err := l.render("config.toml", text, map[string]any{"Shim": c.keeper()}); err != nil {
		return nil, err
	}
	return []string{c.program("containerd"), "-c", l.path("config.toml"), "-l", c.LogLevel}, nil
}

func (c containerd) load(ctx context.Context, l *Lab, archive string) error {
	cmd := exec.CommandContext(ctx, c.program("ctr"), "--address", l.Socket(), "--namespace", "k8s.io",
		"images", "import", "--snapshotter", c.Snapshotter, archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
