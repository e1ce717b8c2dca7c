// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"text/template"
)

// writeConfig writes what the runtime reads, and learns the command that runs it.
func (l *Lab) writeConfig() error {
	for _, name := range []string{"cni", "nri-plugins", "nri-conf", "cdi", "opt", "logs", "s", "tmp"} {
		if err := os.Mkdir(l.path(name), 0o755); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	command, err := l.opts.engine().configure(l)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	l.command = command
	conflist, err := l.net.conflist(l.path("ipam"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path("cni/10-lab.conflist"), conflist, 0o600); err != nil {
		return fmt.Errorf("write network configuration: %w", err)
	}
	return nil
}

// render writes a configuration file of the runtime, with what all runtimes are told and more.
func (l *Lab) render(name, text string, more map[string]any) error {
	tmpl, err := template.New(name).Parse(text)
	if err != nil {
		return err
	}
	required, err := json.Marshal(append([]string{}, l.opts.RequiredPlugins...))
	if err != nil {
		return err
	}
	values := map[string]any{
		"Dir": l.dir, "Image": Image, "Snapshotter": l.opts.Snapshotter, "CNI": l.opts.cniDir(), "Runc": l.runc,
		"NRISocket": l.NRISocket(), "NRIPlugins": l.NRIPluginDir(),
		"RequestTimeout": l.opts.NRITimeout.String(), "RegistrationTimeout": l.opts.NRIRegistrationTimeout.String(),
		"Validator": l.opts.DefaultValidator, "Required": string(required),
		"TolerateMissing": l.opts.TolerateMissing,
	}
	maps.Copy(values, more)
	var config strings.Builder
	if err := tmpl.Execute(&config, values); err != nil {
		return err
	}
	return os.WriteFile(l.path(name), []byte(config.String()), 0o600)
}
