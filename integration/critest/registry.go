// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strconv"

	"github.com/meshnetd/meshnetd/integration/image"
)

// applets are the names that the suite's containers call the program by.
var applets = []string{"sh", "top", "sleep"}

// packShell returns an image whose only program is BusyBox, as found in PATH.
func packShell() (image.Image, error) {
	program, err := staticProgram("busybox")
	if err != nil {
		return image.Image{}, fmt.Errorf("%w: install busybox-static", err)
	}
	layer := image.NewLayer()
	layer.File("bin/busybox", program)
	for _, applet := range applets {
		layer.Link("bin/"+applet, "bin/busybox")
	}
	return layer.Image()
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
type registry struct{ image.Image }

// ServeHTTP answers what a pull asks for, with the paths of the OCI's distribution specification.
func (r registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	kind, digest := path.Base(path.Dir(request.URL.Path)), path.Base(request.URL.Path)
	for _, blob := range []image.Blob{r.Manifest, r.Config, r.Layer} {
		if blob.Digest == digest || kind == "manifests" {
			w.Header().Set("Content-Type", blob.MediaType)
			w.Header().Set("Content-Length", strconv.Itoa(blob.Size))
			_, _ = w.Write(blob.Content) // who went away does not need it
			return
		}
	}
	http.NotFound(w, request)
}
