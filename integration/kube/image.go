// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image is one that a test packs of what is on the machine.
type Image struct {
	Tag         string
	Entrypoint  []string
	Programs    map[string]string // by their paths in the image, where they are on the machine
	Files       map[string]string // by their paths in the image, what they say
	Directories []string          // where everybody may write
}

// Write packs the image into the file, with the libraries that its programs are linked with.
func (i Image) Write(file string) error {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, text := range i.Files {
		if err := addFile(w, path, []byte(text)); err != nil {
			return err
		}
	}
	for _, path := range i.Directories {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(path, "/") + "/", Mode: 0o1777}); err != nil {
			return err
		}
	}
	files := maps.Clone(i.Programs)
	for _, program := range i.Programs {
		libraries, err := linked(program)
		if err != nil {
			return err
		}
		for _, path := range libraries {
			files[path] = path
		}
	}
	for path, source := range files {
		text, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("pack %s: %w", i.Tag, err)
		}
		if err := addFile(w, path, text); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return err
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: i.Entrypoint}})
	if err != nil {
		return err
	}
	if image, err = mutate.AppendLayers(image, l); err != nil {
		return err
	}
	tag, err := name.NewTag(i.Tag)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, image)
}

// library is where the dynamic linker's list says that one is.
var library = regexp.MustCompile(`(?:=> |^\s*)(/\S+) \(`)

// linked returns the libraries and the loader of a program: none where it is static.
func linked(program string) ([]string, error) {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if strings.Contains(string(out), "not a dynamic executable") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find what %s is linked with: %w", program, err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if found := library.FindStringSubmatch(line); found != nil {
			all = append(all, found[1])
		}
	}
	return all, nil
}

func addFile(w *tar.Writer, path string, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(content))}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
