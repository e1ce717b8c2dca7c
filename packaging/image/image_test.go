// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

var sample = release{name: "localhost/meshnetd/meshnetd:v1.2.3", version: "v1.2.3", revision: "0123abcd", created: time.Unix(1700000000, 0).UTC()}

// samplePrograms returns a directory with a stand-in for each program.
func samplePrograms(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range architectures {
		for name, content := range map[string]string{"meshnetd": "program for " + arch, "sbom.spdx.json": `{"name":"` + arch + `"}`} {
			path := filepath.Join(dir, arch, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// readIndex reads what was written, with all digests and sizes checked.
func readIndex(t *testing.T, dir string) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	outer, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("the layout holds %+v, %v", manifest, err)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	return index, manifest.Manifests[0]
}

func TestImage(t *testing.T) {
	out := t.TempDir()
	if _, err := write(samplePrograms(t), out, sample); err != nil {
		t.Fatal(err)
	}
	index, named := readIndex(t, filepath.Join(out, "layout"))
	if diff := cmp.Diff(map[string]string{"org.opencontainers.image.ref.name": "v1.2.3", "io.containerd.image.name": sample.name}, named.Annotations); diff != "" {
		t.Errorf("the name (-want +got):\n%s", diff)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	checkRelease(t, "the index", manifest.Annotations)
	if len(manifest.Manifests) != 2*len(architectures) {
		t.Fatalf("%d manifests, want an image and an SBOM for each of %v", len(manifest.Manifests), architectures)
	}
	for i, arch := range architectures {
		image, bill := manifest.Manifests[i], manifest.Manifests[len(architectures)+i]
		if image.Platform.String() != "linux/"+arch || image.ArtifactType != "" {
			t.Errorf("manifest %d is %+v, want linux/%s", i, image, arch)
		}
		checkImage(t, index, image.Digest, arch)
		if bill.Platform.String() != "unknown/unknown" || bill.ArtifactType != "application/spdx+json" {
			t.Errorf("the SBOM of %s is listed as %+v, which a node might take for its own", arch, bill)
		}
		checkBill(t, index, bill.Digest, image, arch)
	}
}

// checkRelease compares annotations or labels with what is to be said.
func checkRelease(t *testing.T, of string, got map[string]string) {
	t.Helper()
	const key = "org.opencontainers.image."
	want := map[string]string{key + "version": "v1.2.3", key + "revision": "0123abcd", key + "created": "2023-11-14T22:13:20Z", key + "licenses": "Apache-2.0"}
	got = maps.Clone(got)
	maps.DeleteFunc(got, func(key, _ string) bool { _, ok := want[key]; return !ok })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s says (-want +got):\n%s", of, diff)
	}
}

func checkImage(t *testing.T, index v1.ImageIndex, digest v1.Hash, arch string) {
	t.Helper()
	image, err := index.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON {
		t.Errorf("%s: %s with %s, want OCI's", arch, manifest.MediaType, manifest.Config.MediaType)
	}
	checkRelease(t, arch, manifest.Annotations)
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config := file.Config
	if file.OS != "linux" || file.Architecture != arch || !file.Created.Equal(sample.created) {
		t.Errorf("%s: configuration for %s/%s of %s", arch, file.OS, file.Architecture, file.Created)
	}
	if config.User != "0:0" || !slices.Equal(config.Entrypoint, []string{"/usr/bin/meshnetd"}) || !slices.Equal(config.Cmd, []string{"run"}) || len(config.Env) != 0 {
		t.Errorf("%s: runs %q %q as %q with %q", arch, config.Entrypoint, config.Cmd, config.User, config.Env)
	}
	checkRelease(t, arch+"'s labels", config.Labels)
	want := []string{"d 755 0:0 usr/", "d 755 0:0 usr/bin/", "f 755 0:0 usr/bin/meshnetd program for " + arch}
	if diff := cmp.Diff(want, files(t, image)); diff != "" {
		t.Errorf("%s holds (-want +got):\n%s", arch, diff)
	}
}

func checkBill(t *testing.T, index v1.ImageIndex, digest v1.Hash, of v1.Descriptor, arch string) {
	t.Helper()
	bill, err := index.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := bill.Manifest()
	if err != nil || len(manifest.Layers) != 1 {
		t.Fatalf("the SBOM of %s is %+v, %v", arch, manifest, err)
	}
	if manifest.Subject == nil || manifest.Subject.Digest != of.Digest || manifest.Config.MediaType != spdx || manifest.Layers[0].MediaType != spdx {
		t.Errorf("the SBOM of %s is %+v, want SPDX that refers to %s", arch, manifest, of.Digest)
	}
	layers, err := bill.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if text, err := io.ReadAll(content); err != nil || string(text) != `{"name":"`+arch+`"}` {
		t.Errorf("the SBOM of %s says %q, %v", arch, text, err)
	}
}

// files lists every entry of every layer: kind, mode, owner, name and, of a short file, what is in it.
func files(t *testing.T, image v1.Image) []string {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		all = append(all, entries(t, content)...)
	}
	return all
}

// In a tar nothing may tell when, where and by whom it was written.
func TestTar(t *testing.T) {
	programs := samplePrograms(t)
	var tars [2][]byte
	for i := range tars {
		out := t.TempDir()
		if _, err := write(programs, out, sample); err != nil {
			t.Fatal(err)
		}
		old := time.Unix(int64(i+1)*1000000, 0)
		if err := os.Chtimes(filepath.Join(out, "layout", "index.json"), old, old); err != nil {
			t.Fatal(err)
		}
		if err := writeTar(filepath.Join(out, "meshnetd.tar"), filepath.Join(out, "layout")); err != nil {
			t.Fatal(err)
		}
		var err error
		if tars[i], err = os.ReadFile(filepath.Join(out, "meshnetd.tar")); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(tars[0], tars[1]) {
		t.Error("the second tar is another one")
	}
}

// An image that was built before is replaced, and what is missing is an error.
func TestWriteAgain(t *testing.T) {
	programs, out := samplePrograms(t), t.TempDir()
	for _, version := range []string{"v1.2.2", sample.version} {
		r := sample
		r.version = version
		if _, err := write(programs, out, r); err != nil {
			t.Fatal(err)
		}
		readIndex(t, filepath.Join(out, "layout"))
	}
	fresh := t.TempDir()
	if _, err := write(programs, fresh, sample); err != nil {
		t.Fatal(err)
	}
	again, err1 := os.ReadFile(filepath.Join(out, "meshnetd.tar"))
	once, err2 := os.ReadFile(filepath.Join(fresh, "meshnetd.tar"))
	if err := errors.Join(err1, err2); err != nil || !slices.Equal(again, once) {
		t.Errorf("something of the image before is still there, or %v", err)
	}
	for _, missing := range []string{"arm64/sbom.spdx.json", "arm64/meshnetd"} {
		if err := os.Remove(filepath.Join(programs, missing)); err != nil {
			t.Fatal(err)
		}
		if _, err := write(programs, out, sample); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without %s: got %v", missing, err)
		}
	}
}

func entries(t *testing.T, r io.Reader) []string {
	t.Helper()
	var list []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, describe(t, header, archive))
	}
}
