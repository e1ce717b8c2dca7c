// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// importImage packs the stand-in and waits until CRI knows the image.
func (l *Lab) importImage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	program := l.opts.Standin
	if program == "" {
		var err error
		if program, err = BuildStandin(ctx); err != nil {
			return err
		}
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("read stand-in: %w", err)
	}
	archive := l.path("image.tar")
	if err := WriteImage(archive, binary); err != nil {
		return fmt.Errorf("pack image: %w", err)
	}

	if err := l.opts.engine().load(ctx, l, archive); err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	// containerd's CRI learns of the image by an event, some time after the import.
	images := criv1.NewImageServiceClient(l.conn)
	err = Poll(ctx, func() (bool, error) {
		status, err := images.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: Image}})
		return err == nil && status.GetImage() != nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait until the imported image is known: %w", err)
	}
	return nil
}

// descriptor refers to a blob of an OCI image.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// commands are what the injector's containers of each mesh run: the stand-in is found under these names too.
var commands = map[string][]string{
	"istio-proxy":      {"/usr/local/bin/pilot-agent"},
	"istio-validation": {"/usr/local/bin/pilot-agent"},
	"consul-dataplane": {"/usr/local/bin/dumb-init", "/usr/local/bin/consul-dataplane"},
	"kuma-sidecar":     {"/usr/bin/kuma-dp", "run"},
	"linkerd-proxy":    {"/usr/lib/linkerd/linkerd2-proxy-identity"},
}

// WriteImage writes an OCI image layout whose only file is the program, under several names.
func WriteImage(path string, program []byte) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := file.Close(); err == nil {
			err = closeErr
		}
	}()
	layer, err := programLayer(program)
	if err != nil {
		return err
	}

	w := &layoutWriter{tar: tar.NewWriter(file)}
	layerDesc := w.blob("application/vnd.oci.image.layer.v1.tar", layer)
	configDesc := w.json("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/standin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDesc.Digest}},
	})
	manifest := w.json("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": configDesc, "layers": []descriptor{layerDesc},
	})
	manifest.Annotations = map[string]string{
		"io.containerd.image.name":          Image,
		"org.opencontainers.image.ref.name": "1",
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	w.file("index.json", index)
	w.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return w.close()
}

func programLayer(program []byte) ([]byte, error) {
	var layer bytes.Buffer
	w := &layoutWriter{tar: tar.NewWriter(&layer)}
	w.file("standin", program)
	w.directory("tmp", 0o1777)
	programs := map[string]bool{}
	for _, command := range commands {
		programs[command[0]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		w.link(name[1:], "standin")
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

// layoutWriter writes tar entries and keeps the first error.
type layoutWriter struct {
	tar *tar.Writer
	err error
}

func (w *layoutWriter) file(name string, data []byte) {
	if w.err != nil {
		return
	}
	header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}
	if w.err = w.tar.WriteHeader(header); w.err == nil {
		_, w.err = io.Copy(w.tar, bytes.NewReader(data))
	}
}

func (w *layoutWriter) directory(name string, mode int64) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(&tar.Header{Name: name + "/", Mode: mode, Typeflag: tar.TypeDir})
	}
}

func (w *layoutWriter) link(name, to string) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(&tar.Header{Name: name, Linkname: to, Mode: 0o755, Typeflag: tar.TypeLink})
	}
}

func (w *layoutWriter) blob(mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	w.file("blobs/sha256/"+digest, data)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
}

func (w *layoutWriter) json(mediaType string, value any) descriptor {
	data, err := json.Marshal(value)
	if err != nil && w.err == nil {
		w.err = err
	}
	return w.blob(mediaType, data)
}

func (w *layoutWriter) close() error {
	if w.err != nil {
		return w.err
	}
	return w.tar.Close()
}
