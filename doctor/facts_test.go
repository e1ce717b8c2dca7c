// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io/fs"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/status"
)

var (
	noon     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	errNo    = errors.New("dial unix: connect: no such file or directory")
	errOther = errors.New("something else is wrong")
	errRoot  = &fs.PathError{Op: "open", Path: "/a/file", Err: fs.ErrPermission}
)

// good is a node on which all is well.
func good() Facts {
	return Facts{
		Program: "v1.2.0", AsRoot: true,
		Config: Config{File: "/etc/meshnetd/meshnetd.toml", Values: required(config.Default())},
		Runtime: Runtime{Tried: []Tried{{Socket: "/run/containerd/containerd.sock"}, {Socket: "/var/run/crio/crio.sock", Err: errNo}},
			Socket: "/run/containerd/containerd.sock", Name: "containerd", Version: "v2.4.2", Started: noon, Asked: true, NRIPlugin: true},
		Settings: Settings{
			File: "/etc/containerd/config.toml", Files: []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/meshnetd.toml"},
			Newest: "/etc/containerd/conf.d/meshnetd.toml", Changed: noon.Add(-time.Hour),
			Socket: "/run/nri/nri.sock", PluginDir: "/opt/nri/plugins", Registration: 5 * time.Second, Request: 2 * time.Second,
			Validator: Validator{Enabled: true, Required: []string{"meshnetd"}, RejectNamespaces: true},
			CNIDir:    "/etc/cni/net.d",
		},
		NRI: NRI{Plugins: []string{"20-other"}},
		Kernel: Kernel{Release: "6.12.0", Trials: []Trial{{Backend: "iptables"}, {Backend: "iptables-exec"}, {Backend: "nftables"}},
			Chosen: "iptables", Modules: []string{"nf_tables", "nft_compat"}, IPTables: []string{"iptables-nft 1.8.9"}},
		Node: Node{LockDir: "/run/meshnetd-locks", NetNSMount: Mount{Dir: "/run/netns", Point: "/run", Propagation: "shared"},
			Networks: []Network{{File: "/etc/cni/net.d/10-net.conflist", Plugins: []string{"bridge", "portmap"}}}},
		Daemon: Daemon{Socket: "/run/meshnetd/meshnetd.sock", Installed: true,
			Status: status.Status{Version: "v1.2.0", Started: noon, Connected: true, Synchronized: true,
				Kubelet: &status.Kubelet{Socket: "/var/lib/kubelet/pods-api/pods-api.sock", Condition: "complete", Pods: 30, Known: 12},
				Runtime: &status.Runtime{Name: "containerd", Version: "v2.4.2", Tier: "guaranteed"}},
			Process: &Process{PID: 42, Capabilities: 1<<capNetAdmin | 1<<capSysAdmin, NoNewPrivs: true, Seccomp: 2, OOM: -900,
				OwnMounts: true, Mount: Mount{Dir: "/run/netns", Point: "/run", Propagation: "slave"}},
		},
	}
}

// bad is one on which hardly anything is.
func bad() Facts {
	f := good()
	f.Config.Err = config.Problems{{File: f.Config.File, Line: 3, Key: "backend", What: "\"x\" is none of auto"}, {File: f.Config.File, Line: 7, What: "not TOML"}}
	f.Runtime.Version, f.Runtime.NRIPlugin = "1.7.30", false
	f.Settings.Validator, f.Settings.Changed, f.Settings.Unused = Validator{}, noon.Add(time.Hour), []string{"/etc/containerd/conf.d/other.toml"}
	f.Settings.Request, f.Settings.Registration = 500*time.Millisecond, 100*time.Millisecond
	f.NRI = NRI{Err: errNo, Plugins: []string{"95-meshnetd", "meshnetd"}}
	f.Canary = &Canary{Created: true, Left: []string{"sandbox abc: no answer", "container def: no answer"}}
	f.Kernel = Kernel{Release: "4.4.0", Err: errors.New("nothing can write rules"), Missing: []string{"nf_tables", "nft_compat"}, LegacyTables: []string{"nat"}}
	f.Node = Node{HostErr: errOther, LockDir: "/run/meshnetd-locks", Daemons: true, CNIPrograms: []string{"/opt/cni/bin/istio-cni"},
		NetNSMount: Mount{Dir: "/run/netns", Point: "/", Propagation: "private"},
		Networks: []Network{{File: "/etc/cni/net.d/10-net.conflist", Plugins: []string{"bridge", "istio-cni"}},
			{File: "/etc/cni/net.d/20-multus.conf", Plugins: []string{"multus-shim"}}}}
	f.Daemon.Status = status.Status{Version: "v1.1.0", Started: noon}
	f.Daemon.Process = &Process{PID: 42, OOM: 500, OwnMounts: true, OwnPIDs: true, Mount: Mount{Dir: "/run/netns", Point: "/", Propagation: "private"}}
	return f
}

// required is the configuration of a node whose runtime requires meshnetd.
func required(c config.Config) config.Config {
	c.Required = true
	return c
}
