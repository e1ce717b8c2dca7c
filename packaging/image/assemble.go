// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var architectures = []string{"amd64", "arm64"}

// program is its place in the image: in the PATH that runtimes give an image which names none, so that
// `kubectl exec ... meshnetd status` finds it.
const program = "usr/bin/meshnetd"

const spdx = types.MediaType("application/spdx+json")

// assemble makes the index: an image for each architecture and, behind all of them, what each is made of.
func assemble(programs string, r release) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var bills []mutate.IndexAddendum
	for _, arch := range architectures {
		image, err := platformImage(filepath.Join(programs, arch, "meshnetd"), arch, r)
		if err != nil {
			return nil, fmt.Errorf("pack meshnetd for %s: %w", arch, err)
		}
		platform := v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: runnable{image}, Descriptor: platform})
		bill, err := billOfMaterials(filepath.Join(programs, arch, "sbom.spdx.json"), image, r)
		if err != nil {
			return nil, fmt.Errorf("attach what meshnetd for %s is made of: %w", arch, err)
		}
		bills = append(bills, bill)
	}
	index = mutate.AppendManifests(index, bills...)
	return mutate.Annotations(index, r.annotations()).(v1.ImageIndex), nil
}

// runnable is an image that the index lists as such. For any other the library writes the type of its configuration as
// that of an artifact.
type runnable struct{ v1.Image }

// ArtifactType returns that there is none.
func (runnable) ArtifactType() (string, error) { return "", nil }

func platformImage(file, arch string, r release) (v1.Image, error) {
	layer, err := programLayer(file, r)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: r.created}, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: []string{"/" + program}, Cmd: []string{"run"},
			// Said, not left out: capabilities are no use to any other user.
			User: "0:0", WorkingDir: "/", Labels: r.annotations(),
		},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer,
		History: v1.History{Created: v1.Time{Time: r.created}, CreatedBy: "packaging/image"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, r.annotations()).(v1.Image), nil
}

// programLayer is all that is in the image: the program and the directories on its way.
func programLayer(file string, r release) (v1.Layer, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	parts := strings.Split(program, "/")
	for i := range parts[1:] {
		dir := strings.Join(parts[:i+1], "/") + "/"
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: r.created}); err != nil {
			return nil, err
		}
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: program, Mode: 0o755, Size: int64(len(content)), ModTime: r.created}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// billOfMaterials is an artifact that refers to the image. Beside that it is in the index, as of a platform that no
// node is of: so it goes wherever the index is copied, and registries find it by what it refers to.
func billOfMaterials(file string, image v1.Image, r release) (mutate.IndexAddendum, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	subject, err := partial.Descriptor(image)
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	subject.Platform = nil
	artifact := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), spdx)
	artifact, err = mutate.Append(artifact, mutate.Addendum{Layer: static.NewLayer(content, spdx), MediaType: spdx,
		Annotations: map[string]string{"org.opencontainers.image.title": "sbom.spdx.json"}})
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	artifact = mutate.Annotations(artifact, r.annotations()).(v1.Image)
	artifact = mutate.Subject(artifact, *subject).(v1.Image)
	return mutate.IndexAddendum{Add: artifact, Descriptor: v1.Descriptor{
		ArtifactType: string(spdx), Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": subject.Digest.String(),
		},
	}}, nil
}

// annotations are the ones that OCI defines, for manifests and as labels.
func (r release) annotations() map[string]string {
	a := map[string]string{
		"org.opencontainers.image.title":       "meshnetd",
		"org.opencontainers.image.description": "Service-mesh redirection for pods (NRI plugin)",
		"org.opencontainers.image.version":     r.version,
		"org.opencontainers.image.created":     r.created.Format("2006-01-02T15:04:05Z"),
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.source":      "https://github.com/meshnetd/meshnetd",
	}
	if r.revision != "" {
		a["org.opencontainers.image.revision"] = r.revision
	}
	return a
}
