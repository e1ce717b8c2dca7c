// SPDX-License-Identifier: Apache-2.0

// Package image packs programs of this machine into OCI images, each of one layer, for runtimes that tests run.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"strings"
)

// Layer is what an image holds. It keeps the first error, which Image returns.
type Layer struct {
	text bytes.Buffer
	tar  *tar.Writer
	err  error
}

// NewLayer returns an empty one.
func NewLayer() *Layer {
	l := &Layer{}
	l.tar = tar.NewWriter(&l.text)
	return l
}

// File adds a file that everybody may run.
func (l *Layer) File(name string, data []byte) {
	l.add(tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}, data)
}

// Open adds a directory in which everybody may write.
func (l *Layer) Open(name string) {
	l.add(tar.Header{Name: name + "/", Mode: 0o1777, Typeflag: tar.TypeDir}, nil)
}

// Link gives a file another name.
func (l *Layer) Link(name, file string) {
	l.add(tar.Header{Name: name, Linkname: strings.TrimPrefix(file, "/"), Mode: 0o755, Typeflag: tar.TypeLink}, nil)
}

func (l *Layer) add(header tar.Header, data []byte) {
	if l.err != nil {
		return
	}
	header.Name = strings.TrimPrefix(header.Name, "/")
	if l.err = l.tar.WriteHeader(&header); l.err == nil {
		_, l.err = l.tar.Write(data)
	}
}

// Blob is a part of an image, as a registry gives it out.
type Blob struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Content     []byte            `json:"-"`
}

func blob(mediaType string, content []byte) Blob {
	sum := sha256.Sum256(content)
	return Blob{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(content), Content: content}
}

// Image is a manifest, and what it refers to.
type Image struct{ Manifest, Config, Layer Blob }

// Image returns the layer as an image that runs the entrypoint.
func (l *Layer) Image(entrypoint ...string) (Image, error) {
	if err := errors.Join(l.err, l.tar.Close()); err != nil {
		return Image{}, err
	}
	i := Image{Layer: blob("application/vnd.oci.image.layer.v1.tar", l.text.Bytes())}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": entrypoint},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{i.Layer.Digest}},
	})
	if err != nil {
		return Image{}, err
	}
	i.Config = blob("application/vnd.oci.image.config.v1+json", config)
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "config": i.Config, "layers": []Blob{i.Layer}})
	if err != nil {
		return Image{}, err
	}
	i.Manifest = blob(mediaType, manifest)
	return i, nil
}

// Write writes an OCI layout as a tar, from which runtimes import the image under the name.
func (i Image) Write(path, name string) error {
	named := i.Manifest
	named.Annotations = map[string]string{
		"io.containerd.image.name":          name,
		"org.opencontainers.image.ref.name": name[strings.LastIndexByte(name, ':')+1:],
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []Blob{named}})
	if err != nil {
		return err
	}
	layout := NewLayer()
	for _, b := range []Blob{i.Manifest, i.Config, i.Layer} {
		layout.File("blobs/sha256/"+strings.TrimPrefix(b.Digest, "sha256:"), b.Content)
	}
	layout.File("index.json", index)
	layout.File("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if err := errors.Join(layout.err, layout.tar.Close()); err != nil {
		return err
	}
	return os.WriteFile(path, layout.text.Bytes(), 0o644)
}
