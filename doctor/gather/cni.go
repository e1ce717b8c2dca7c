// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/meshnetd/meshnetd/doctor"
)

// networks reads the files of CNI in the order in which a runtime takes the first.
func (t tree) networks(dir string) ([]doctor.Network, error) {
	entries, err := os.ReadDir(t.path(dir)) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []doctor.Network
	for _, entry := range entries {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		file := filepath.Join(dir, entry.Name())
		network := doctor.Network{File: file}
		if raw, err := t.read(file); err != nil {
			network.Err = err
		} else if network.Plugins, err = parseNetwork(raw); err != nil {
			network.Err = fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, network)
	}
	return all, err
}

// parseNetwork returns the types of a network's plugins: of a list, or of a single one.
func parseNetwork(raw []byte) ([]string, error) {
	var network struct {
		Type    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(raw, &network); err != nil {
		return nil, fmt.Errorf("not a network configuration in JSON: %w", err)
	}
	var types []string
	if network.Type != "" {
		types = append(types, network.Type)
	}
	for _, plugin := range network.Plugins {
		types = append(types, plugin.Type)
	}
	return types, nil
}

// meshPrograms returns the programs of other meshes in the directories of CNI.
func (t tree) meshPrograms(dirs []string) []string {
	var found []string
	for _, dir := range dirs {
		names, _ := t.programs(dir) // what cannot be seen is not run either
		for _, name := range names {
			if doctor.MeshPlugins()[name] != "" {
				found = append(found, filepath.Join(dir, name))
			}
		}
	}
	return found
}
