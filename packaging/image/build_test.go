// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// describe says what an entry of a layer is. Of a program it says how it is linked.
func describe(t *testing.T, header *tar.Header, content io.Reader) string {
	t.Helper()
	kind := map[byte]string{tar.TypeReg: "f", tar.TypeDir: "d"}[header.Typeflag]
	line := fmt.Sprintf("%s %o %d:%d %s", kind, header.Mode, header.Uid, header.Gid, header.Name)
	if header.Typeflag != tar.TypeReg {
		return line
	}
	text, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(bytes.NewReader(text))
	if err != nil {
		return line + " " + string(text)
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	interpreted := slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	return fmt.Sprintf("%s %s static=%t", line, program.Machine, !interpreted && len(libraries) == 0)
}

// Two directories, of which one is no work tree of git, give the same image; a short run builds it once. It holds the static
// program, and is small.
func TestBuiltTwice(t *testing.T) {
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	built := t.TempDir()
	name := build(t, here, built)
	if want := `^localhost/meshnetd/meshnetd:v1\.2\.3-meta sha256:[0-9a-f]{64}$`; !regexp.MustCompile(want).MatchString(name) {
		t.Errorf("built %q, want something like %s", name, want)
	}
	if !testing.Short() {
		there := filepath.Join(t.TempDir(), "another", "directory")
		copySources(t, here, there)
		if again := build(t, there, t.TempDir()); again != name {
			t.Errorf("built %q, and elsewhere %q", name, again)
		}
	}
	info, err := os.Stat(filepath.Join(built, "meshnetd.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("both architectures with their SBOMs: %.1f MB", float64(info.Size())/1e6)
	index, _ := readIndex(t, filepath.Join(built, "layout"))
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, machine := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		checkBuilt(t, index, manifest.Manifests[i], machine)
	}
}

func checkBuilt(t *testing.T, index v1.ImageIndex, of v1.Descriptor, machine elf.Machine) {
	t.Helper()
	image, err := index.Image(of.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d 755 0:0 usr/", "d 755 0:0 usr/bin/", fmt.Sprintf("f 755 0:0 usr/bin/meshnetd %s static=true", machine)}
	if got := files(t, image); !slices.Equal(got, want) {
		t.Errorf("%s holds %q, want %q", of.Platform, got, want)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var packed int64
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			t.Fatal(err)
		}
		packed += size
		unpacked, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		full, err := io.Copy(io.Discard, unpacked)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MB to pull, %.1f MB unpacked", of.Platform, float64(packed)/1e6, float64(full)/1e6)
		if full > 30e6 {
			t.Errorf("%s: %d bytes, want fewer than 30 MB", of.Platform, full)
		}
	}
}

func build(t *testing.T, root, dest string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "packaging", "image", "build.sh"), dest)
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3+meta", "REVISION=0123abcd", "SOURCE_DATE_EPOCH=1700000000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build.sh in %s: %v\n%s", root, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// copySources copies the module without what git and make keep in it.
func copySources(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != "build" && name != ".git" {
			if out, err := exec.Command("cp", "-r", filepath.Join(from, name), to).CombinedOutput(); err != nil {
				t.Fatalf("copy the sources: %v: %s", err, out)
			}
		}
	}
}
