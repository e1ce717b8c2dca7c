// SPDX-License-Identifier: Apache-2.0

// Command sbom prints what a Go program is made of, as the program itself says it, in SPDX 2.3: sbom PROGRAM.
package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(path string, out io.Writer) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read what %s is made of: %w", path, err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// Not the clock: the same program has the same text.
	epoch, err := strconv.ParseInt(cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), "0"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH is no number of seconds: %w", err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(describe(info, sha256.Sum256(program), time.Unix(epoch, 0).UTC()))
}

type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []pkg          `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	ID           string      `json:"SPDXID"`
	Name         string      `json:"name"`
	Version      string      `json:"versionInfo"`
	Download     string      `json:"downloadLocation"`
	Analyzed     bool        `json:"filesAnalyzed"`
	Concluded    string      `json:"licenseConcluded"`
	Declared     string      `json:"licenseDeclared"`
	Copyright    string      `json:"copyrightText"`
	Checksums    []checksum  `json:"checksums,omitempty"`
	Comment      string      `json:"comment,omitempty"`
	ExternalRefs []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const unknown = "NOASSERTION"

// describe puts the program, its compiler and its modules in the order in which the program has them.
func describe(info *debug.BuildInfo, sum [sha256.Size]byte, created time.Time) document {
	main := describeModule(&info.Main, "SPDXRef-program")
	main.Declared = "Apache-2.0"
	main.Checksums = []checksum{{"SHA256", fmt.Sprintf("%x", sum)}}
	var settings []string
	for _, s := range info.Settings {
		settings = append(settings, s.Key+"="+s.Value)
	}
	main.Comment = "The checksum is the program's. Built with " + strings.Join(settings, " ")
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: info.Main.Path,
		Namespace: fmt.Sprintf("https://%s/sbom/%x", info.Main.Path, sum),
		Creation:  creation{created.Format(time.RFC3339), []string{"Tool: meshnetd-sbom"}},
		Packages:  []pkg{main},
	}
	d.Relationships = append(d.Relationships, relationship{d.ID, "DESCRIBES", main.ID})
	compiler := describeModule(&debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}, "SPDXRef-std")
	compiler.Declared = "BSD-3-Clause"
	d.add(compiler)
	for i, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		d.add(describeModule(m, fmt.Sprintf("SPDXRef-module-%d", i+1)))
	}
	return d
}

// add adds something that is linked into the program.
func (d *document) add(p pkg) {
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, relationship{d.Packages[0].ID, "STATIC_LINK", p.ID})
}

func describeModule(m *debug.Module, id string) pkg {
	version := cmp.Or(m.Version, "(devel)")
	p := pkg{ID: id, Name: m.Path, Version: version, Download: unknown, Concluded: unknown, Declared: unknown, Copyright: unknown,
		ExternalRefs: []reference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + version}}}
	if m.Sum != "" {
		p.Comment = "go.sum: " + m.Sum
	}
	return p
}
