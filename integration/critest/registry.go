// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// applets are the names that the suite's containers call the program by.
var applets = []string{"sh", "top", "sleep"}

// packShell returns an image whose only program is BusyBox, as found in PATH.
func packShell() (v1.Image, error) {
	program, err := staticProgram("busybox")
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	err = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(program)
	}
	for _, applet := range applets {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777, Typeflag: tar.TypeSymlink}))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layer)
}

func staticProgram(name string) ([]byte, error) {
	file, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parsed, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if libraries, err := parsed.ImportedLibraries(); err != nil || len(libraries) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s needs libraries, which the image does not have: %v", file, libraries))
	}
	return program, nil
}

// registry has one image, which it gives out under every name and tag.
type registry struct{ v1.Image }

// ServeHTTP answers what a pull asks for, with the paths of the OCI's distribution specification.
func (r registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, mediaType, err := r.get(path.Base(path.Dir(request.URL.Path)), path.Base(request.URL.Path))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", string(mediaType))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // who went away does not need it
}

func (r registry) get(kind, name string) ([]byte, types.MediaType, error) {
	if kind == "manifests" {
		manifest, err := r.RawManifest()
		return manifest, types.OCIManifestSchema1, err
	}
	hash, err := v1.NewHash(name)
	if err != nil {
		return nil, "", err
	}
	if config, err := r.ConfigName(); err != nil || hash == config {
		file, read := r.RawConfigFile()
		return file, types.OCIConfigJSON, errors.Join(err, read)
	}
	layer, err := r.LayerByDigest(hash)
	if err != nil {
		return nil, "", err
	}
	packed, err := layer.Compressed()
	if err != nil {
		return nil, "", err
	}
	defer packed.Close()
	blob, err := io.ReadAll(packed)
	return blob, types.OCILayer, err
}
