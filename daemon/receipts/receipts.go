// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package receipts remembers beyond a process which plan meshnetd verified in which sandbox, where root of the node alone reads
// and writes. Only when the configuration changes is that not to be read from the kernel: rules that were whole then look
// like anybody's. A missing, old or damaged receipt costs no more than that: the rules are judged by today's plan alone.
package receipts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// Directory holds a file for each sandbox. Whoever reads or writes one has the lock on the sandbox's namespace.
type Directory string

// In returns the directory of receipts within one of root's, where it is made when it is needed.
func In(dir string) Directory { return Directory(filepath.Join(dir, "receipts")) }

// Receipt is what was verified in a sandbox.
type Receipt struct {
	NetNS netns.ID
	Plan  string // its key
}

// Names reports whether a plan with that key was verified. Earlier versions kept the first half of it.
func (r Receipt) Names(key string) bool {
	return r.Plan != "" && (r.Plan == key || r.Plan == key[:len(key)/2])
}

// format is the first field of each file: what it is followed by.
const format = "1"

// longest is how much of a file is read.
const longest = 256

// sandboxID is what runtimes give out, so that it is the name of a file and nothing else.
var sandboxID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (d Directory) file(id string) (path string, ok bool) {
	return filepath.Join(string(d), id), sandboxID.MatchString(id)
}

// Read returns the sandbox's receipt; the zero Receipt where there is none that can be read.
func (d Directory) Read(id string) Receipt {
	path, ok := d.file(id)
	if !ok {
		return Receipt{}
	}
	f, err := os.Open(path)
	if err != nil {
		return Receipt{}
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, longest))
	if err != nil {
		return Receipt{}
	}
	var r Receipt
	var version, end string
	n, _ := fmt.Sscan(string(text), &version, &r.NetNS.Dev, &r.NetNS.Ino, &r.Plan, &end)
	if n != 5 || version != format || end != "." {
		return Receipt{}
	}
	return r
}

// Write writes the sandbox's receipt where it is another one than before. Where it cannot, the sandbox has none: that is
// missed only when the configuration changes.
func (d Directory) Write(id string, r Receipt) {
	path, ok := d.file(id)
	if !ok || d.Read(id) == r {
		return
	}
	text := fmt.Sprintln(format, r.NetNS.Dev, r.NetNS.Ino, r.Plan, ".") // the end shows that nothing is missing
	err := os.WriteFile(path, []byte(text), 0o600)
	if errors.Is(err, fs.ErrNotExist) { // the first one
		_ = os.Mkdir(string(d), 0o700)
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		d.Remove(id)
	}
}

// Remove removes the receipt of a sandbox that is gone, or whose rules were taken out.
func (d Directory) Remove(id string) {
	if path, ok := d.file(id); ok {
		_ = os.Remove(path) // what stays is removed with the next Keep
	}
}

// Of returns the receipts for a namespace, of whichever sandbox.
func (d Directory) Of(ns netns.ID) (all []Receipt) {
	for _, id := range d.ids() {
		if r := d.Read(id); r.NetNS == ns {
			all = append(all, r)
		}
	}
	return all
}

// Keep removes the receipts of all sandboxes but those that exist. Those of the last minute stay: another daemon may have
// written them after that list was made.
func (d Directory) Keep(exist map[string]bool) {
	for _, id := range d.ids() {
		if path, _ := d.file(id); !exist[id] && old(path) {
			_ = os.Remove(path)
		}
	}
}

func old(path string) bool {
	info, err := os.Stat(path)
	return err == nil && time.Since(info.ModTime()) > time.Minute
}

func (d Directory) ids() (all []string) {
	entries, _ := os.ReadDir(string(d)) // where it cannot be read there is nothing
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
