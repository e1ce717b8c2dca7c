// SPDX-License-Identifier: Apache-2.0

package lab

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
)

// The configurations keep away from every default path; the few that cannot
// be moved are named in the package comment.
var (
	//go:embed containerd-2.4.toml.tmpl
	config24 string
	//go:embed containerd-1.7.toml.tmpl
	config17 string
)

func (l *Lab) writeConfig() error {
	for _, name := range []string{"cni", "nri-plugins", "nri-conf", "cdi", "opt", "logs", "s", "tmp"} {
		if err := os.Mkdir(l.path(name), 0o755); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	text := config24
	if l.opts.Version == Containerd17 {
		text = config17
	}
	// JSON and TOML agree on how strings and lists of strings are written.
	imports, err := json.Marshal(append([]string{}, l.opts.Imports...))
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	text = strings.Replace(text, "\nimports = []\n", "\nimports = "+string(imports)+"\n", 1)
	tmpl, err := template.New("config.toml").Parse(text)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	required, err := json.Marshal(append([]string{}, l.opts.RequiredPlugins...))
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	var config strings.Builder
	err = tmpl.Execute(&config, map[string]any{
		"Dir": l.dir, "Image": Image, "Snapshotter": l.opts.Snapshotter,
		"CNI": l.opts.cniDir(), "Shim": l.opts.program("containerd-shim-runc-v2"), "Runc": l.runc,
		"NRISocket": l.NRISocket(), "NRIPlugins": l.NRIPluginDir(),
		"RequestTimeout": l.opts.NRITimeout.String(), "RegistrationTimeout": l.opts.NRIRegistrationTimeout.String(),
		"Validator": l.opts.DefaultValidator, "Required": string(required),
		"TolerateMissing": l.opts.TolerateMissing,
	})
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(l.path("config.toml"), []byte(config.String()), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}

	conflist, err := l.net.conflist(l.path("ipam"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path("cni/10-lab.conflist"), conflist, 0o600); err != nil {
		return fmt.Errorf("write network configuration: %w", err)
	}
	return nil
}
