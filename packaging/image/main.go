// SPDX-License-Identifier: Apache-2.0

// Command image packs meshnetd for every platform into one OCI image, without a container engine. The same programs
// give the same bytes: nothing comes from the clock or from the machine.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// release is what is said of the image.
type release struct {
	name     string // the reference under which runtimes know it after an import
	version  string
	revision string
	created  time.Time
}

func main() {
	var r release
	programs := flag.String("programs", "", "`DIR` with ARCH/meshnetd and ARCH/sbom.spdx.json for each of "+fmt.Sprint(architectures))
	out := flag.String("out", "", "`DIR` to write: layout/ is an OCI layout, meshnetd.tar the same for `ctr images import`")
	flag.StringVar(&r.name, "name", "", "`REFERENCE` that the tar is imported as, with its tag")
	flag.StringVar(&r.version, "version", "", "`VERSION` of meshnetd")
	flag.StringVar(&r.revision, "revision", "", "`COMMIT` it was built from")
	created := flag.String("created", "0", "the commit's time, in `SECONDS` since 1970")
	flag.Parse()
	if *programs == "" || *out == "" || r.name == "" || r.version == "" {
		flag.Usage()
		os.Exit(2)
	}
	seconds, err := strconv.ParseInt(*created, 10, 64)
	if err == nil {
		r.created = time.Unix(seconds, 0).UTC()
		var digest string
		if digest, err = write(*programs, *out, r); err == nil {
			fmt.Println(r.name, digest)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write packs the programs into dir/layout and dir/meshnetd.tar, in place of what is there, and returns the digest.
func write(programs, dir string, r release) (string, error) {
	index, err := assemble(programs, r)
	if err != nil {
		return "", err
	}
	layout := filepath.Join(dir, "layout")
	if err := os.RemoveAll(layout); err != nil {
		return "", fmt.Errorf("replace the image: %w", err)
	}
	if err := writeLayout(layout, index, r); err != nil {
		return "", err
	}
	if err := writeTar(filepath.Join(dir, "meshnetd.tar"), layout); err != nil {
		return "", err
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("read the image's digest: %w", err)
	}
	return digest.String(), nil
}
