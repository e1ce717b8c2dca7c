// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/meshnetd/meshnetd/integration/image"
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
	layer := image.NewLayer()
	for path, text := range i.Files {
		layer.File(path, []byte(text))
	}
	for _, path := range i.Directories {
		layer.Open(path)
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
		layer.File(path, text)
	}
	packed, err := layer.Image(i.Entrypoint...)
	if err != nil {
		return fmt.Errorf("pack %s: %w", i.Tag, err)
	}
	return packed.Write(file, i.Tag)
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
