// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs are iptables programs that obey: a daemon started by launcher finds them before the real ones.
type programs struct {
	dir      string
	obeyed   string // where a program leaves the name of what it was told and did
	launcher string // runs meshnetd with these programs in its PATH, in the same process
}

// What a program can be told to do instead of its work. A file NAME.VERB beside it says so.
const (
	fail = "fail" // end with an error
	hang = "hang" // end long after everybody has lost patience
	lie  = "lie"  // end well, having done nothing
	kill = "kill" // kill the daemon with SIGKILL, and end: once
)

// obedient is the script of every program. The daemon is its parent. The file of "kill" is moved rather than
// tested, so that of several programs at once only one does it.
const obedient = `#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
if [ -e "$0.kill" ] && mv "$0.kill" "$0.killed" 2>/dev/null; then : >%[2]s/kill; kill -9 "$PPID"; exit 1; fi
if [ -e "$0.fail" ]; then : >%[2]s/fail; echo "${0##*/}: told to fail" >&2; exit 4; fi
if [ -e "$0.hang" ]; then : >%[2]s/hang; exec sleep 20; fi
if [ -e "$0.lie" ]; then : >%[2]s/lie; cat >/dev/null; exit 0; fi
exec %[1]s "$@"
`

// installPrograms writes the programs and the launcher of meshnetd into a new directory.
func installPrograms(dir, meshnetd string) (programs, error) {
	p := programs{dir: filepath.Join(dir, "bin"), obeyed: filepath.Join(dir, "obeyed"), launcher: filepath.Join(dir, "meshnetd")}
	for _, dir := range []string{p.dir, p.obeyed} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return p, fmt.Errorf("install programs: %w", err)
		}
	}
	for _, family := range []string{"iptables-nft", "ip6tables-nft"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			real, err := exec.LookPath(family + verb)
			if err != nil {
				return p, fmt.Errorf("install programs: %w", err)
			}
			if err := os.WriteFile(filepath.Join(p.dir, family+verb), fmt.Appendf(nil, obedient, real, p.obeyed), 0o755); err != nil {
				return p, fmt.Errorf("install programs: %w", err)
			}
		}
	}
	launch := fmt.Sprintf("#!/bin/sh\nPATH=%s:$PATH exec %s \"$@\"\n", p.dir, meshnetd)
	if err := os.WriteFile(p.launcher, []byte(launch), 0o755); err != nil {
		return p, fmt.Errorf("install programs: %w", err)
	}
	return p, nil
}

// tell makes the programs do something else from now on.
func (p programs) tell(verb string, names ...string) error {
	if err := os.Remove(filepath.Join(p.obeyed, verb)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tell programs to %s: %w", verb, err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(p.dir, name+"."+verb), nil, 0o600); err != nil {
			return fmt.Errorf("tell %s to %s: %w", name, verb, err)
		}
	}
	return nil
}

// obey makes all programs do their work again.
func (p programs) obey() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("mend programs: %w", err)
	}
	for _, e := range entries {
		if !strings.Contains(e.Name(), ".") {
			continue
		}
		if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mend programs: %w", err)
		}
	}
	return nil
}

// check returns an error where no program has done what it was told to: then there was no fault.
func (p programs) check(verb string) error {
	if _, err := os.Stat(filepath.Join(p.obeyed, verb)); err != nil {
		return fmt.Errorf("nobody ran a program that was told to %s, so there was no fault: %w", verb, err)
	}
	return nil
}
