// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/image"
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

// commands are what the injector's containers of each mesh run: the stand-in is found under these names too.
var commands = map[string][]string{
	"istio-proxy":      {"/usr/local/bin/pilot-agent"},
	"istio-validation": {"/usr/local/bin/pilot-agent"},
	"consul-dataplane": {"/usr/local/bin/dumb-init", "/usr/local/bin/consul-dataplane"},
	"kuma-sidecar":     {"/usr/bin/kuma-dp", "run"},
	"linkerd-proxy":    {"/usr/lib/linkerd/linkerd2-proxy-identity"},
}

// WriteImage writes an image whose only file is the program, under several names.
func WriteImage(path string, program []byte) error {
	layer := image.NewLayer()
	layer.File("standin", program)
	layer.Open("tmp")
	programs := map[string]bool{}
	for _, command := range commands {
		programs[command[0]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		layer.Link(name, "standin")
	}
	packed, err := layer.Image("/standin")
	if err != nil {
		return err
	}
	return packed.Write(path, Image)
}
