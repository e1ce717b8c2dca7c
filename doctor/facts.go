// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/status"
)

// Facts is what was seen of a node. An error says why something was not seen.
type Facts struct {
	Program string // version of this program
	AsRoot  bool   // else some of the following could not be looked at
	// Contained is set in a container, which is given some of the node's files: others are missing there, and not on the node.
	Contained bool

	Config   Config
	Runtime  Runtime
	Settings Settings
	NRI      NRI
	Canary   *Canary // nil where none was asked for
	Kernel   Kernel
	Node     Node
	Daemon   Daemon
}

// Config is meshnetd's own configuration.
type Config struct {
	File    string
	Missing bool  // there is none, so that the built-in values count
	Err     error // config.Problems where the file could be read
	Values  config.Config
}

// Runtime is the container runtime that answered first.
type Runtime struct {
	Tried   []Tried // all sockets that were asked
	Socket  string  // "" where none answered
	Name    string  // as it says it; "" where CRI did not answer
	Version string
	Started time.Time // zero where its process could not be seen

	// What containerd says of its plugins.
	Asked     bool // it is containerd, and was asked
	AskErr    error
	NRIPlugin bool   // the one that serves NRI is loaded
	NRIErr    string // why it could not be; "" where it could
	CRIErr    error  // why CRI does not answer although containerd does
}

// Tried is one socket at which a runtime may answer.
type Tried struct {
	Socket string
	Err    error // nil where one did
}

// Settings is the runtime's configuration as its files say it now. What the files do not say has its default of that
// version.
type Settings struct {
	File    string   // the first one
	Missing bool     // it does not exist
	Err     error    // why they could not all be read
	Files   []string // all that were read, in order
	Newest  string   // of them
	Changed time.Time
	Unused  []string // files for it that nothing imports

	NRIDisabled   bool
	NoConnections bool
	Socket        string
	PluginDir     string
	Registration  time.Duration
	Request       time.Duration
	Validator     Validator

	CNIDir      string
	CNIPrograms []string // directories
	NetNSDir    string   // where it mounts network namespaces
}

// Validator is the runtime's default validator.
type Validator struct {
	Enabled          bool
	Required         []string
	Tolerate         string // the annotation that undoes Required; "" is none
	RejectNamespaces bool   // no plugin moves a container to another namespace
}

// NRI is the runtime's side of plugins.
type NRI struct {
	Err     error // why the socket that meshnetd is configured for cannot be reached
	Plugins []string
	ListErr error
}

// Canary is what became of a container that requires a plugin which nobody has.
type Canary struct {
	Refused string   // the runtime's words; "" where it was not refused
	Created bool     // it was created, and never started
	Err     error    // why nothing was found out
	Left    []string // what could not be removed, and why
}

// Kernel is what the kernel can do.
type Kernel struct {
	Release        string
	Trials         []Trial
	Err            error // nothing that is wanted can write rules
	Chosen         string
	IPv6           error
	UserNamespaces error
	Modules        []string // of those that rules can need, the ones that are loaded or built in
	Missing        []string // the other ones
	Locked         bool     // no further module can be loaded
	IPTables       []string // variants that are installed, with their versions
	LegacyTables   []string // of iptables-legacy in the host's namespace
}

// Trial is what came of trying one way to write rules.
type Trial struct {
	Backend string
	Err     error
}

// Node is the machine apart from its runtime and kernel.
type Node struct {
	HostErr     error // why the host's network namespace cannot be told
	NetNSMount  Mount // of the directory with network namespaces, as init sees it
	Networks    []Network
	CNIErr      error
	CNIPrograms []string // of other meshes, that are installed
	LockDir     string
	LocksErr    error // why its locks cannot be used
	Daemons     bool  // more than one meshnetd runs
}

// Mount is the mount that a directory lies on.
type Mount struct {
	Dir         string
	Point       string // where it is mounted; "" where that could not be seen
	Propagation string // "shared", "slave", "private"
}

// Network is one file of CNI.
type Network struct {
	File    string
	Plugins []string // their types, in order
	Err     error
}

// Daemon is the running meshnetd.
type Daemon struct {
	Socket    string
	Err       error // why it does not answer
	Crashed   bool  // there is a socket, and nobody listens
	Installed bool  // there is a unit for it
	Status    status.Status
	Process   *Process // nil where it could not be seen
}

// Process is what /proc tells of the daemon.
type Process struct {
	PID          int
	Capabilities uint64 // effective
	NoNewPrivs   bool
	Seccomp      int // 2 is a filter
	OOM          int // its oom_score_adj
	OwnMounts    bool
	OwnNetwork   bool
	OwnPIDs      bool
	Mount        Mount // of the directory with network namespaces, as it sees it
}
