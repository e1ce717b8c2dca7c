// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// writeLayout writes the image under its name: ref.name is OCI's, the other is what containerd's import reads.
func writeLayout(dir string, index v1.ImageIndex, r release) error {
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("write the OCI layout: %w", err)
	}
	err = l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.version, "io.containerd.image.name": r.name,
	}))
	if err != nil {
		return fmt.Errorf("write the OCI layout: %w", err)
	}
	return nil
}

// writeTar packs the layout in the order of its names, without owners and times.
func writeTar(file, layout string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the image as a tar: %w", err)
	}
	defer func() {
		if closeErr := out.Close(); err == nil {
			err = closeErr
		}
	}()
	w := tar.NewWriter(out)
	err = filepath.WalkDir(layout, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return addFile(w, path, layout)
	})
	if err != nil {
		return fmt.Errorf("write the image as a tar: %w", err)
	}
	return w.Close()
}

func addFile(w *tar.Writer, path, below string) error {
	name, err := filepath.Rel(below, path)
	if err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}
