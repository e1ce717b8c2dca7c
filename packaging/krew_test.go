// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// krewPlugin is what krew reads of a manifest.
type krewPlugin struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Metadata   map[string]string `yaml:"metadata"`
	Spec       struct {
		Version          string `yaml:"version"`
		ShortDescription string `yaml:"shortDescription"`
		Description      string `yaml:"description"`
		Caveats          string `yaml:"caveats"`
		Platforms        []struct {
			Selector struct {
				MatchLabels map[string]string `yaml:"matchLabels"`
			} `yaml:"selector"`
			URI    string `yaml:"uri"`
			SHA256 string `yaml:"sha256"`
			Bin    string `yaml:"bin"`
		} `yaml:"platforms"`
	} `yaml:"spec"`
}

// krew's manifest names an archive of each platform by its sum, with that platform's plugin and the licence in it.
func TestKrew(t *testing.T) {
	dir := t.TempDir()
	compiler := filepath.Join(dir, "go")
	const script = "#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\necho \"$GOOS $GOARCH\" >\"$2\"\n"
	if err := os.WriteFile(compiler, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("./krew.sh", dir)
	cmd.Env = append(os.Environ(), "GO="+compiler, "VERSION=v1.2.3", "RELEASES=https://releases.example/1.2.3")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "meshnetd-krew.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var p krewPlugin
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&p); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" || p.Metadata["name"] != "meshnetd" ||
		p.Spec.Version != "v1.2.3" || len(p.Spec.ShortDescription) > 80 || p.Spec.Description == "" || p.Spec.Caveats == "" {
		t.Errorf("says %+v", p)
	}
	var platforms []string
	for _, one := range p.Spec.Platforms {
		labels := one.Selector.MatchLabels
		platforms = append(platforms, labels["os"]+"/"+labels["arch"])
		archive, err := os.ReadFile(filepath.Join(dir, strings.TrimPrefix(one.URI, "https://releases.example/1.2.3/")))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != one.SHA256 {
			t.Errorf("%s is not the one of the sum", one.URI)
		}
		files := unpacked(t, archive)
		if want := labels["os"] + " " + labels["arch"] + "\n"; files[one.Bin] != want || files["LICENSE"] == "" {
			t.Errorf("%s has %q", one.URI, files)
		}
	}
	if want := []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("for %v, want %v", platforms, want)
	}
}

func unpacked(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(plain); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(text)
	}
}
