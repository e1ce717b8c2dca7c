// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inTree are the packages of the tree beside Debian's smallest set: what a node has, and what a test asks it with.
const inTree = "systemd,systemd-sysv,dbus,iproute2,iptables,runc,kmod,procps,man-db,bash-completion"

// debian returns the directory of a Debian of this machine's release, which nobody writes to. It is made by
// debootstrap from where this machine has its packages, once for all clones, and made anew when something of that
// changes.
func debian(t *testing.T) string {
	t.Helper()
	suite, mirror, err := source()
	if err != nil {
		unable(t, err)
	}
	cache := os.Getenv("MESHNETD_CACHE")
	if cache == "" {
		users, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(users, "meshnetd")
	}
	tree := filepath.Join(cache, "systemd-tree")
	marker := filepath.Join(tree, "made-of")
	want := fmt.Sprintf("%x\n", sha256.Sum256([]byte(suite+inTree)))
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return filepath.Join(tree, "root")
	}
	began := time.Now()
	if err := os.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(tree, "root")
	cmd := exec.CommandContext(within(t, 10*time.Minute), "debootstrap", "--variant=minbase", "--include="+inTree, suite, root, mirror)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v\n%s", err, last(string(out), 30))
	}
	if err := os.WriteFile(marker, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("made a Debian %s in %s", suite, time.Since(began).Round(time.Second))
	return root
}

// source returns this machine's Debian release and where it has its packages from.
func source() (suite, mirror string, err error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			suite = strings.Trim(name, `"`)
		}
	}
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	lists, _ := filepath.Glob("/etc/apt/sources.list.d/*.list")
	for _, file := range append(append(files, lists...), "/etc/apt/sources.list") {
		if mirror, err := mirrorIn(file, suite); err == nil && mirror != "" {
			return suite, mirror, nil
		}
	}
	return "", "", errors.New("this machine has no Debian packages of its own release in /etc/apt")
}

// mirrorIn finds the first address of the release itself in a file of apt, of either format.
func mirrorIn(file, suite string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	uri := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		words := strings.Fields(s.Text())
		switch {
		case len(words) == 0:
			uri = ""
		case words[0] == "URIs:" && len(words) > 1:
			uri = words[1]
		case words[0] == "Suites:" && len(words) > 1 && words[1] == suite && uri != "":
			return uri, nil
		case words[0] == "deb":
			words = words[1:]
			if len(words) > 0 && strings.HasPrefix(words[0], "[") {
				for len(words) > 0 && !strings.HasSuffix(words[0], "]") {
					words = words[1:]
				}
				words = words[min(1, len(words)):]
			}
			if len(words) > 1 && words[1] == suite {
				return words[0], nil
			}
		}
	}
	return "", nil
}

// unable skips the test where the machine cannot run it, unless skipping is forbidden.
func unable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("MESHNETD_REQUIRE") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// last returns the last lines of a text.
func last(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
