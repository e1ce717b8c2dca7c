// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"context"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/explain"
)

func kernel(ctx context.Context, t tree, cfg config.Config, asRoot bool) doctor.Kernel {
	k := doctor.Kernel{IPTables: installedIPTables(ctx)}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		k.Release = unix.ByteSliceToString(name.Release[:])
	}
	widest := explain.Node(cfg).Widest()
	modules(t, &k, backend.Modules(widest))
	if tables, err := t.read("/proc/net/ip_tables_names"); err == nil {
		k.LegacyTables = strings.Fields(string(tables))
	}
	if asRoot {
		try(ctx, backend.Want{Name: cfg.Backend, All: true, Plan: widest}, &k)
	}
	return k
}

func installedIPTables(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return xtables.Installed(ctx)
}

// try writes every kind of rule as the daemon does when it starts.
func try(ctx context.Context, want backend.Want, k *doctor.Kernel) {
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	isolated, err := netns.Isolate()
	if err != nil {
		k.Err = err
		return
	}
	defer isolated.Close()
	found, err := backend.Find(ctx, want, isolated)
	if err != nil {
		k.Err = err
		return
	}
	for _, t := range found.Trials {
		k.Trials = append(k.Trials, doctor.Trial{Backend: t.Backend, Err: t.Err})
	}
	k.Chosen, k.IPv6, k.UserNamespaces = found.Chosen(), found.IPv6(), found.UserNamespaces()
}

// modules looks which of the needed modules are loaded or built in.
func modules(t tree, k *doctor.Kernel, needed []string) {
	there := map[string]bool{}
	if loaded, err := t.read("/proc/modules"); err == nil {
		for line := range strings.Lines(string(loaded)) {
			name, _, _ := strings.Cut(line, " ")
			there[name] = true
		}
	}
	if builtin, err := t.read(filepath.Join("/lib/modules", k.Release, "modules.builtin")); err == nil {
		for line := range strings.Lines(string(builtin)) {
			name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
			there[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	for _, name := range needed {
		if there[name] {
			k.Modules = append(k.Modules, name)
		} else {
			k.Missing = append(k.Missing, name)
		}
	}
	locked, err := t.read("/proc/sys/kernel/modules_disabled")
	k.Locked = err == nil && strings.TrimSpace(string(locked)) == "1"
}
