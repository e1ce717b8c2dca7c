// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/meshnetd/meshnetd/doctor"
)

// Where the runtimes usually have their files.
const (
	containerdFile = "/etc/containerd/config.toml"
	crioFile       = "/etc/crio/crio.conf"
	mostFiles      = 100 // that one configuration imports; more are a mistake
)

// settings reads the runtime's configuration: of the file that is asked for, or the one its process was started with, or
// the usual one.
func settings(t tree, rt doctor.Runtime, process int, asked string) doctor.Settings {
	crio := strings.HasPrefix(strings.ToLower(rt.Name), "cri")
	file := asked
	if file == "" {
		file = t.startedWith(process)
	}
	if file == "" && crio {
		file = crioFile
	}
	if file == "" {
		file = containerdFile
	}
	old := strings.HasPrefix(strings.TrimPrefix(rt.Version, "v"), "1.") && !crio
	s := doctor.Settings{File: file, Socket: "/var/run/nri/nri.sock", PluginDir: "/opt/nri/plugins",
		Registration: 5 * time.Second, Request: 2 * time.Second, NRIDisabled: old, CNIDir: "/etc/cni/net.d", CNIPrograms: []string{"/opt/cni/bin"},
		NetNSDir: "/var/run/netns"}
	if crio {
		readCRIO(t, &s)
	} else {
		readContainerd(t, &s, old)
	}
	if s.Missing && asked != "" {
		s.Missing, s.Err = false, fmt.Errorf("%s: %w", file, fs.ErrNotExist)
	}
	s.Newest, s.Changed = t.newest(s.Files)
	return s
}

// startedWith returns the configuration file that a process names on its command line, or "".
func (t tree) startedWith(process int) string {
	if process <= 0 {
		return ""
	}
	text, err := t.proc(process, "cmdline")
	if err != nil {
		return ""
	}
	file := configArgument(strings.Split(string(text), "\x00"))
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	dir, err := os.Readlink(t.path(fmt.Sprintf("/proc/%d/cwd", process)))
	if err != nil {
		return ""
	}
	return filepath.Join(dir, file)
}

func configArgument(args []string) string {
	for i, arg := range args {
		for _, flag := range []string{"--config", "-config", "-c"} {
			if value, found := strings.CutPrefix(arg, flag+"="); found {
				return value
			}
			if arg == flag && i+1 < len(args) {
				return args[i+1]
			}
		}
	}
	return ""
}

// readContainerd reads the file and what it imports, breadth first, as containerd does. What is read later counts:
// whole tables of a plugin in containerd 1.7, single keys in 2.0 and newer.
func readContainerd(t tree, s *doctor.Settings, whole bool) {
	plugins, state := map[string]any{}, "/run/containerd"
	for pending := []string{s.File}; len(pending) > 0 && s.Err == nil; pending = pending[1:] {
		file := pending[0]
		if slices.Contains(s.Files, file) {
			continue
		}
		top, err := t.toml(file)
		if errors.Is(err, fs.ErrNotExist) && file == s.File {
			s.Missing = true
			break
		}
		if err == nil && len(s.Files) >= mostFiles {
			err = fmt.Errorf("%s imports more than %d files", s.File, mostFiles)
		}
		if err != nil {
			s.Err = err
			break
		}
		s.Files = append(s.Files, file)
		state = text(top, state, "state")
		merge(plugins, table(top, "plugins"), whole)
		for _, path := range texts(top, nil, "imports") {
			pending = append(pending, t.imports(file, path)...)
		}
	}
	for _, file := range t.glob(filepath.Join(filepath.Dir(s.File), "conf.d", "*.toml")) {
		if s.Err == nil && !slices.Contains(s.Files, file) {
			s.Unused = append(s.Unused, file)
		}
	}
	containerdNRI(s, table(plugins, "io.containerd.nri.v1.nri"))
	// Version 3 of the file has these apart, version 2 in one table.
	for _, name := range []string{"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"} {
		cri := table(plugins, name)
		cni := table(cri, "cni")
		s.CNIDir = text(cni, s.CNIDir, "conf_dir")
		if dir := text(cni, "", "bin_dir"); dir != "" {
			s.CNIPrograms = []string{dir}
		}
		s.CNIPrograms = texts(cni, s.CNIPrograms, "bin_dirs")
		if truth(cri, false, "netns_mounts_under_state_dir") {
			s.NetNSDir = filepath.Join(state, "io.containerd.grpc.v1.cri", "netns")
		}
	}
}

func (t tree) imports(parent, path string) []string {
	path = filepath.Clean(path)
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(parent), path)
	}
	if strings.Contains(path, "*") {
		return t.glob(path)
	}
	return []string{path}
}

func containerdNRI(s *doctor.Settings, nri map[string]any) {
	s.NRIDisabled = truth(nri, s.NRIDisabled, "disable")
	s.NoConnections = truth(nri, false, "disable_connections")
	s.Socket = text(nri, s.Socket, "socket_path")
	s.PluginDir = text(nri, s.PluginDir, "plugin_path")
	s.Registration = span(nri, s.Registration, "plugin_registration_timeout")
	s.Request = span(nri, s.Request, "plugin_request_timeout")
	v := table(nri, "default_validator")
	s.Validator = doctor.Validator{
		Enabled:          truth(v, false, "enable"),
		Required:         texts(v, nil, "required_plugins"),
		Tolerate:         text(v, "", "tolerate_missing_plugins_annotation"),
		RejectNamespaces: truth(v, false, "reject_namespace_adjustment"),
	}
}

// readCRIO reads the file and the drop-ins beside it in the order of their names, which may be without the file.
func readCRIO(t tree, s *doctor.Settings) {
	all := map[string]any{}
	for i, file := range append([]string{s.File}, t.glob(s.File+".d/*")...) {
		top, err := t.toml(file)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			s.Err = err
			break
		}
		s.Files = append(s.Files, file)
		merge(all, top, false)
	}
	s.Missing = len(s.Files) == 0 && s.Err == nil
	crio := table(all, "crio")
	nri, network := table(crio, "nri"), table(crio, "network")
	s.NRIDisabled = !truth(nri, true, "enable_nri")
	s.NoConnections = truth(nri, false, "nri_disable_connections")
	s.Socket = text(nri, s.Socket, "nri_listen")
	s.PluginDir = text(nri, s.PluginDir, "nri_plugin_dir")
	s.Registration = span(nri, s.Registration, "nri_plugin_registration_timeout")
	s.Request = span(nri, s.Request, "nri_plugin_request_timeout")
	v := table(nri, "default_validator")
	s.Validator = doctor.Validator{
		Enabled:          truth(v, false, "nri_enable_default_validator"),
		Required:         texts(v, nil, "nri_validator_required_plugins"),
		Tolerate:         text(v, "", "nri_validator_tolerate_missing_plugins_annotation"),
		RejectNamespaces: truth(v, false, "nri_validator_reject_namespace_adjustment"),
	}
	s.CNIDir = text(network, s.CNIDir, "network_dir")
	s.CNIPrograms = texts(network, s.CNIPrograms, "plugin_dirs")
	s.NetNSDir = filepath.Join(text(crio, filepath.Dir(s.NetNSDir), "namespaces_dir"), "netns")
}

func (t tree) toml(file string) (map[string]any, error) {
	raw, err := t.read(file)
	if err != nil {
		return nil, err
	}
	var top map[string]any
	if _, err := toml.Decode(string(raw), &top); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("%s:%d: not TOML: %s", file, max(1, syntax.Position.Line), syntax.Message)
		}
		return nil, fmt.Errorf("%s: not TOML: %w", file, err)
	}
	return top, nil
}

// merge puts the keys of from into to: single keys at any depth, or whole values.
func merge(to, from map[string]any, whole bool) {
	for key, value := range from {
		inner, isTable := value.(map[string]any)
		existing, wasTable := to[key].(map[string]any)
		if isTable && wasTable && !whole {
			merge(existing, inner, false)
		} else if isTable {
			to[key] = maps.Clone(inner)
		} else {
			to[key] = value
		}
	}
}

// The following return a value of a table, or the default where there is none of that type: with a value of another type
// the runtime would not start, and it is for the runtime to say so.

func table(m map[string]any, key string) map[string]any {
	inner, _ := m[key].(map[string]any)
	return inner
}

func truth(m map[string]any, otherwise bool, key string) bool {
	if value, ok := m[key].(bool); ok {
		return value
	}
	return otherwise
}

func text(m map[string]any, otherwise, key string) string {
	if value, ok := m[key].(string); ok {
		return value
	}
	return otherwise
}

func texts(m map[string]any, otherwise []string, key string) []string {
	list, ok := m[key].([]any)
	if !ok {
		return otherwise
	}
	var all []string
	for _, item := range list {
		if value, ok := item.(string); ok {
			all = append(all, value)
		}
	}
	return all
}

// span reads a duration; containerd's may be a number of nanoseconds. Nothing, or 0, is the default.
func span(m map[string]any, otherwise time.Duration, key string) time.Duration {
	switch value := m[key].(type) {
	case string:
		if d, err := time.ParseDuration(value); err == nil && d > 0 {
			return d
		}
	case int64:
		if value > 0 {
			return time.Duration(value)
		}
	}
	return otherwise
}
