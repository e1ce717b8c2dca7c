// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// initImage stands in for the image of istio-init. That one runs a program of its own, which looks for the right
// iptables first; this one has the rules ready and writes them.
const initImage = "localhost/meshnetd/init:1"

// writeInitImage packs the machine's iptables and shell with all they need, and these files in the root.
func writeInitImage(file string, files map[string]string) error {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, text := range files {
		if err := addFile(w, path, []byte(text)); err != nil {
			return err
		}
	}
	paths, err := needed("/usr/sbin/xtables-nft-multi", "/usr/bin/dash")
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("pack the init container's image: %w", err)
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
	const restore = "/usr/sbin/xtables-nft-multi %s-restore --noflush /rules.%s"
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: []string{"/usr/bin/dash", "-ec",
			fmt.Sprintf(restore, "iptables", "v4") + "\n" + fmt.Sprintf(restore, "ip6tables", "v6")}}})
	if err != nil {
		return err
	}
	if image, err = mutate.AppendLayers(image, l); err != nil {
		return err
	}
	tag, err := name.NewTag(initImage)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, image)
}

// library is where the dynamic linker's list says that one is.
var library = regexp.MustCompile(`(?:=> |^\s*)(/\S+) \(`)

// needed returns the programs, what they are linked with, and what iptables loads by itself.
func needed(programs ...string) ([]string, error) {
	all := slices.Clone(programs)
	for _, program := range programs {
		out, err := exec.Command("ldd", program).Output()
		if err != nil {
			return nil, fmt.Errorf("find what %s is linked with: %w", program, err)
		}
		for line := range strings.Lines(string(out)) {
			if found := library.FindStringSubmatch(line); found != nil {
				all = append(all, found[1])
			}
		}
	}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	all = append(all, extensions...)
	slices.Sort(all)
	return slices.Compact(all), err
}

func addFile(w *tar.Writer, path string, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(content))}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
