// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options say what to run. Only Runtime and Binaries are required.
type Options struct {
	Runtime Runtime
	// Binaries is the directory integration/runtimes/build.sh built into.
	Binaries string
	// Standin is a prebuilt stand-in program; by default it is built from the
	// sources of the module the current directory is in.
	Standin string
	// Snapshotter is "overlayfs" by default; "native" needs no overlay mounts.
	Snapshotter string
	// DualStack gives the pods an IPv6 address as well.
	DualStack bool
	// NRITimeout is what a plugin has for one request; 2s by default.
	NRITimeout time.Duration
	// NRIRegistrationTimeout is what a plugin has to register; 5s by default.
	NRIRegistrationTimeout time.Duration
	// DefaultValidator enables NRI's default validator, where the runtime has it.
	DefaultValidator bool
	// RequiredPlugins are the plugins the default validator demands for every
	// container. Setting it needs DefaultValidator.
	RequiredPlugins []string
	// TolerateMissing is the annotation by which a pod may opt out of
	// RequiredPlugins; none by default.
	TolerateMissing string
	// Imports are configuration files that the runtime reads after the lab's own, as from its conf.d; what
	// they say replaces what the options above say. Absolute paths.
	Imports []string
	// LogLevel is the runtime's log level; "info" by default.
	LogLevel string
	// Log receives the lab's own progress lines; nil discards them.
	Log io.Writer
}

func (o Options) withDefaults() Options {
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.NRITimeout == 0 {
		o.NRITimeout = 2 * time.Second
	}
	if o.NRIRegistrationTimeout == 0 {
		o.NRIRegistrationTimeout = 5 * time.Second
	}
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

// Check reports why a lab cannot be run with these options on this machine,
// or nil. Start calls it too; tests use it to skip.
func (o Options) Check() error {
	if _, ok := runtimes[o.Runtime]; !ok {
		return fmt.Errorf("unknown runtime %q (want one of %v)", o.Runtime, slices.Sorted(maps.Keys(runtimes)))
	}
	if !o.Runtime.Validates() && (o.DefaultValidator || len(o.RequiredPlugins) > 0) {
		return fmt.Errorf("%s has no NRI validators: unset DefaultValidator and RequiredPlugins", o.Runtime)
	}
	if len(o.RequiredPlugins) > 0 && !o.DefaultValidator {
		return errors.New("RequiredPlugins has no effect without DefaultValidator: set both")
	}
	for _, path := range o.Imports {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("import %q is not an absolute path: the runtime would look for it beside the lab's configuration", path)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it creates namespaces, a bridge and mounts")
	}
	if err := o.engine().check(); err != nil {
		return err
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(o.cniDir(), plugin)); err != nil {
			return fmt.Errorf("the CNI plugin %s is missing: run integration/runtimes/build.sh %s cni: %w", plugin, o.Binaries, err)
		}
	}
	if _, err := findRunc(); err != nil {
		return err
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("the lab needs ip of iproute2: %w", err)
	}
	return nil
}

func (o Options) cniDir() string { return filepath.Join(o.Binaries, "cni") }

// findRunc returns the OCI runtime that $MESHNETD_RUNC names, such as crun, or else runc.
func findRunc() (string, error) {
	path, err := exec.LookPath(cmp.Or(os.Getenv("MESHNETD_RUNC"), "runc"))
	if err != nil {
		return "", fmt.Errorf("the lab needs runc, or what MESHNETD_RUNC names: %w", err)
	}
	return filepath.Abs(path)
}

// FindBinaries returns the directory of the runtimes: $MESHNETD_RUNTIMES, or build/runtimes of the module.
func FindBinaries() (string, error) {
	if dir := os.Getenv("MESHNETD_RUNTIMES"); dir != "" {
		return dir, nil
	}
	root, err := FindRoot()
	return filepath.Join(root, "build", "runtimes"), err
}

// FindRoot returns the directory of the meshnetd module that the current
// directory lies in.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find current directory: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && isModule(string(mod), modulePath) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod of %s above the current directory: run from inside the repository", modulePath)
		}
	}
}

const modulePath = "github.com/meshnetd/meshnetd"

func isModule(mod, path string) bool {
	for line := range strings.Lines(mod) {
		if strings.TrimSpace(line) == "module "+path {
			return true
		}
	}
	return false
}
