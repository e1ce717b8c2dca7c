// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// snapshot copies the sources of the module, with their history and without what is built.
func snapshot(t *testing.T) string {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sources")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "build" {
			copyTo(t, filepath.Join(root, e.Name()), dir)
		}
	}
	return dir
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// packages builds the packages of sources and returns the directory that they are in.
func packages(t *testing.T, sources, version string) string {
	t.Helper()
	dest := t.TempDir()
	cmd := exec.CommandContext(within(t, 10*time.Minute), filepath.Join(sources, "packaging", "build.sh"), dest)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "VERSION="+version, "SOURCE_DATE_EPOCH=1700000000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("build the packages: %v\n%s", err, last(stderr.String(), 30))
	}
	return dest
}

var (
	onceBuilt sync.Once
	built     []byte
)

// deb returns the package of this source tree, v1.0.0, built once.
func deb(t *testing.T) []byte {
	t.Helper()
	onceBuilt.Do(func() {
		found, _ := filepath.Glob(filepath.Join(packages(t, snapshot(t), "v1.0.0"), "*.deb"))
		if len(found) != 1 {
			t.Fatalf("%d debs", len(found))
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		built = text
	})
	return built
}

// frozen returns the package that upgrades start from, v0.9.0.
func frozen(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("MESHNETD_FROZEN"), "meshnetd.deb"))
	if err != nil {
		unable(t, fmt.Errorf("needs a frozen meshnetd in MESHNETD_FROZEN, which packaging/frozen.sh builds: %w", err))
	}
	return text
}

// The same sources give the same bytes, whatever their directory and that of the result are called.
func TestReproducible(t *testing.T) {
	one := snapshot(t)
	two := filepath.Join(t.TempDir(), "a", "longer", "name")
	if err := os.MkdirAll(filepath.Dir(two), 0o755); err != nil {
		t.Fatal(err)
	}
	copyTo(t, one, two)
	first, second := packages(t, one, "v1.0.0-rc1"), packages(t, two, "v1.0.0-rc1")
	files, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(first, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two builds differ", f.Name())
		}
		names = append(names, f.Name())
	}
	arch := strings.TrimSpace(output(t, "dpkg", "--print-architecture"))
	for _, want := range []string{"meshnetd", "sbom.spdx.json", "meshnetd_1.0.0~rc1-1_" + arch + ".deb"} {
		if !strings.Contains(" "+strings.Join(names, " ")+" ", " "+want+" ") {
			t.Errorf("there is no %s among %v", want, names)
		}
	}
	if out := output(t, filepath.Join(first, "meshnetd"), "version"); !strings.Contains(out, "v1.0.0-rc1") {
		t.Errorf("the program says it is %s", out)
	}
	if out, _ := exec.Command("ldd", filepath.Join(first, "meshnetd")).CombinedOutput(); !strings.Contains(string(out), "not a dynamic") {
		t.Errorf("the program is not static: %s", out)
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}
