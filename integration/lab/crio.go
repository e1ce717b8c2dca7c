// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed crio.conf.tmpl
var configCRIO string

// crio is the machine's own CRI-O, with Debian's conmon and skopeo: crio and pinns are in $MESHNETD_CRIO, or else in PATH.
type crio struct{ Options }

// find returns the path of one of its programs, "" where it is missing.
func (c crio) find(name string) string {
	if dir := os.Getenv("MESHNETD_CRIO"); dir != "" && (name == "crio" || name == "pinns") {
		name = filepath.Join(dir, name)
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return ""
	}
	return path
}

func (c crio) keeper() string { return c.find("conmon") }

func (c crio) check() error {
	for _, name := range []string{"crio", "pinns", "conmon", "skopeo"} {
		if c.find(name) == "" {
			return fmt.Errorf("%s is missing: install CRI-O, or name the directory of crio and pinns in MESHNETD_CRIO, and install conmon and skopeo", name)
		}
	}
	return nil
}

func (c crio) configure(l *Lab) ([]string, error) {
	if err := os.Mkdir(l.path("crio.conf.d"), 0o755); err != nil {
		return nil, err
	}
	for _, path := range c.Imports {
		if err := os.Symlink(path, filepath.Join(l.path("crio.conf.d"), filepath.Base(path))); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{
		"policy.json":     `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"registries.conf": "", // the machine's own may be of another version
	} {
		if err := os.WriteFile(l.path(name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	err := l.render("crio.conf", configCRIO, map[string]any{"Conmon": c.keeper(), "Pinns": c.find("pinns"), "Driver": c.driver(), "LogLevel": c.LogLevel})
	if err != nil {
		return nil, err
	}
	return []string{c.find("crio"), "--config", l.path("crio.conf"), "--config-dir", l.path("crio.conf.d")}, nil
}

// driver is what CRI-O calls a snapshotter.
func (c crio) driver() string {
	switch c.Snapshotter {
	case "overlayfs":
		return "overlay"
	case "native":
		return "vfs"
	}
	return c.Snapshotter
}

func (c crio) load(ctx context.Context, l *Lab, archive string) error {
	store := fmt.Sprintf("containers-storage:[%s@%s+%s]%s", c.driver(), l.path("root"), l.path("state"), Image)
	cmd := exec.CommandContext(ctx, c.find("skopeo"), "--policy", l.path("policy.json"), "copy", "oci-archive:"+archive+":1", store)
	cmd.Env = append(os.Environ(), "TMPDIR="+l.path("tmp"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
