// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os"
	"strings"
)

// Runtime names a release of a container runtime that the lab can run. For containerd it is the directory of that release's
// programs below Options.Binaries; CRI-O is in no module registry, and is the machine's own.
type Runtime string

// The containerds that integration/runtimes pins, and CRI-O: 1.36 and newer, and 1.34 or 1.35.
const (
	Containerd24  Runtime = "containerd-2.4"
	Containerd23  Runtime = "containerd-2.3"
	Containerd22  Runtime = "containerd-2.2"
	Containerd223 Runtime = "containerd-2.2.3" // of those that do not start again once a sandbox was refused
	Containerd21  Runtime = "containerd-2.1"
	Containerd17  Runtime = "containerd-1.7"
	CRIO          Runtime = "crio"
	CRIO134       Runtime = "crio-1.34"
)

// traits are what tests expect of a runtime.
type traits struct {
	validates   bool // it has NRI's validators
	tellsUser   bool // plugins are told as whom a container runs
	refusesLate bool // meshnetd lets a sandbox through and refuses its containers
}

var runtimes = map[Runtime]traits{
	Containerd24:  {validates: true, tellsUser: true},
	Containerd23:  {validates: true, tellsUser: true},
	Containerd22:  {validates: true},
	Containerd223: {validates: true, refusesLate: true},
	Containerd21:  {refusesLate: true},
	Containerd17:  {},
	CRIO:          {validates: true, tellsUser: true},
	CRIO134:       {validates: true},
}

// Runtimes are those that $MESHNETD_LAB names, separated by commas, or else the two of which the others are mixtures.
func Runtimes() []Runtime {
	names := os.Getenv("MESHNETD_LAB")
	if names == "" {
		return []Runtime{Containerd24, Containerd17}
	}
	var all []Runtime
	for name := range strings.SplitSeq(names, ",") {
		all = append(all, Runtime(name))
	}
	return all
}

// Validates reports whether the runtime has NRI's validators.
func (r Runtime) Validates() bool { return runtimes[r].validates }

// TellsUser reports whether the runtime tells plugins as whom a container runs.
func (r Runtime) TellsUser() bool { return runtimes[r].tellsUser }

// RefusesLate reports whether a pod is refused at its containers, since the runtime breaks where its sandbox is.
func (r Runtime) RefusesLate() bool { return runtimes[r].refusesLate }

// IsCRIO reports whether it is CRI-O.
func (r Runtime) IsCRIO() bool { return r == CRIO || r == CRIO134 }

// engine is what runtimes do differently.
type engine interface {
	// check reports what is missing.
	check() error
	// keeper is the path of the program that stays with a container when the runtime ends.
	keeper() string
	// configure writes the configuration of a lab and returns the command that runs the runtime with it.
	configure(l *Lab) ([]string, error)
	// load makes the image in an archive the runtime's.
	load(ctx context.Context, l *Lab, archive string) error
}

func (o Options) engine() engine {
	if o.Runtime.IsCRIO() {
		return crio{o}
	}
	return containerd{o}
}
