// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Version names a containerd release the lab can run. Its value is the
// directory of that release's programs below Options.Binaries.
type Version string

// The releases that integration/runtimes pins.
const (
	Containerd24 Version = "containerd-2.4"
	Containerd17 Version = "containerd-1.7"
)

// Versions returns every release, the newest first.
func Versions() []Version { return []Version{Containerd24, Containerd17} }

// Options say what to run. Only Version and Binaries are required.
type Options struct {
	// Version is the containerd release.
	Version Version
	// Binaries is the directory integration/runtimes/build.sh built into.
	Binaries string
	// Runc is the OCI runtime; by default runc as found in PATH.
	Runc string
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
	// DefaultValidator enables NRI's default validator (containerd 2.4 only).
	DefaultValidator bool
	// RequiredPlugins are the plugins the default validator demands for every
	// container. Setting it needs DefaultValidator.
	RequiredPlugins []string
	// TolerateMissing is the annotation by which a pod may opt out of
	// RequiredPlugins; none by default.
	TolerateMissing string
	// Imports are configuration files that containerd reads after the lab's own, as from its conf.d; what
	// they say replaces what the options above say. Absolute paths.
	Imports []string
	// LogLevel is containerd's log level; "info" by default.
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
	if o.Version != Containerd24 && o.Version != Containerd17 {
		return fmt.Errorf("unknown containerd version %q (want one of %v)", o.Version, Versions())
	}
	if o.Version == Containerd17 && (o.DefaultValidator || len(o.RequiredPlugins) > 0) {
		return fmt.Errorf("%s has no NRI validators: unset DefaultValidator and RequiredPlugins", o.Version)
	}
	if len(o.RequiredPlugins) > 0 && !o.DefaultValidator {
		return errors.New("RequiredPlugins has no effect without DefaultValidator: set both")
	}
	for _, path := range o.Imports {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("import %q is not an absolute path: containerd would look for it beside the lab's configuration", path)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it creates namespaces, a bridge and mounts")
	}
	for _, program := range o.programs() {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%s is missing: run integration/runtimes/build.sh %s: %w", filepath.Base(program), o.Binaries, err)
		}
	}
	if _, err := o.runc(); err != nil {
		return err
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("the lab needs ip of iproute2: %w", err)
	}
	return nil
}

func (o Options) programs() []string {
	return []string{
		o.program("containerd"), o.program("containerd-shim-runc-v2"), o.program("ctr"),
		filepath.Join(o.cniDir(), "bridge"), filepath.Join(o.cniDir(), "host-local"), filepath.Join(o.cniDir(), "loopback"),
	}
}

func (o Options) program(name string) string {
	return filepath.Join(o.Binaries, string(o.Version), name)
}

func (o Options) cniDir() string { return filepath.Join(o.Binaries, "cni") }

func (o Options) runc() (string, error) {
	if o.Runc != "" {
		return filepath.Abs(o.Runc)
	}
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("the lab needs runc: install it or set Options.Runc: %w", err)
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
