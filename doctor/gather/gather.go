// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package gather looks at a node for package doctor. Each look has its own time limit, and what cannot be seen is a
// fact with an error, never the end. It changes nothing, but for the canary where that is asked for; rules are tried in
// network namespaces of its own.
package gather

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/doctor"
)

// Options say where to look.
type Options struct {
	Program       string // version of this program
	Root          string // below which the node's files are; "" is /
	Config        string // file of meshnetd's configuration
	ConfigNeeded  bool   // it was asked for, so that it must exist
	RuntimeConfig string // the runtime's first file; "" is the one its process was started with, or the usual one
	Canary        bool
	CanaryImage   string // "" is any that the runtime has
}

// lookLimit bounds one look at one thing, trialLimit all trials of writing rules.
const (
	lookLimit   = 5 * time.Second
	trialLimit  = 60 * time.Second
	canaryLimit = 60 * time.Second
)

// Facts looks at everything.
func Facts(ctx context.Context, o Options) doctor.Facts {
	t := tree(o.Root)
	f := doctor.Facts{Program: o.Program, AsRoot: os.Geteuid() == 0, Config: ownConfig(t, o)}
	var process int
	f.Runtime, process = findRuntime(ctx, t, f.Config.Values.CRISocket)
	f.Runtime.Started = t.started(process)
	f.Settings = settings(t, f.Runtime, process, o.RuntimeConfig)
	f.NRI.Err = listens(ctx, t.path(f.Config.Values.NRI.Socket))
	f.NRI.Plugins, f.NRI.ListErr = t.programs(f.Settings.PluginDir)
	f.Kernel = kernel(ctx, t, f.Config.Values, f.AsRoot)
	_, f.Node.HostErr = netns.Host(f.Config.Values.HostNetNS)
	f.Node.NetNSMount = t.mountOf(1, f.Settings.NetNSDir)
	f.Node.Networks, f.Node.CNIErr = t.networks(f.Settings.CNIDir)
	f.Node.CNIPrograms = t.meshPrograms(f.Settings.CNIPrograms)
	f.Node.LockDir = f.Config.Values.LockDir
	f.Node.Daemons, f.Node.LocksErr = locks(f.Node.LockDir)
	f.Daemon = daemon(ctx, t, f.Config.Values.StatusSocket, f.Settings.NetNSDir)
	var alone bool
	if alone, f.Contained = t.contained(); alone { // what is said of process 1 is of the container
		f.Node.NetNSMount.Propagation = ""
		if f.Daemon.Process != nil {
			f.Daemon.Process.OwnMounts = true
		}
	}
	if o.Canary && f.Runtime.Socket != "" {
		f.Canary = canary(ctx, t.path(f.Runtime.Socket), o.CanaryImage)
	}
	return f
}

// locks reports whether more than one daemon runs. The daemon makes a directory that is missing.
func locks(dir string) (others bool, err error) {
	l, err := netns.OpenLocks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if os.Geteuid() != 0 { // root's directory would look wrongly owned to anybody else
		err = fs.ErrPermission
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	return l.OtherDaemons(), nil
}

// ownConfig reads meshnetd's configuration, or has the built-in values where that fails.
func ownConfig(t tree, o Options) doctor.Config {
	values, err := config.Load(t.path(o.Config))
	c := doctor.Config{File: o.Config, Values: values, Err: err}
	if errors.Is(err, fs.ErrNotExist) && !o.ConfigNeeded {
		c.Missing, c.Err = true, nil
	}
	if err != nil {
		c.Values = config.Default()
	}
	return c
}
