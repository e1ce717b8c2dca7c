// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kernels boots Debian's kernels, whole and with modules left out, and runs this module's tests and programs in them.
package kernels

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// archive writes what a kernel unpacks as its first root: cpio, format newc.
type archive struct {
	out  io.Writer
	made map[string]bool
	size int64
}

// tree adds all that is in the directory, under the name at.
func (a *archive) tree(dir, at string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return a.add(path, filepath.Join(at, below))
	})
}

// add adds a file, a link or an empty directory, and the directories it is in.
func (a *archive) add(path, at string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if a.made[at] || at == "." {
		return nil
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return a.entry(at, 0o040755, nil)
	case mode.IsRegular():
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return a.entry(at, 0o100000|uint32(mode.Perm()), content)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return a.entry(at, 0o120777, []byte(target))
	}
	return nil // devices are the kernel's to make
}

func (a *archive) entry(name string, mode uint32, content []byte) error {
	if parent := filepath.Dir(name); parent != "." && !a.made[parent] {
		if err := a.entry(parent, 0o040755, nil); err != nil {
			return err
		}
	}
	if a.made[name] {
		return nil
	}
	a.made[name] = true
	return a.record(name, mode, content)
}

func (a *archive) record(name string, mode uint32, content []byte) error {
	const inode, links, unused = 0, 1, 0
	_, err := fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, unused, unused, links, unused, len(content), unused, unused, unused, unused, len(name)+1, unused, name)
	if err != nil {
		return err
	}
	if err := a.pad(); err != nil {
		return err
	}
	if _, err := a.Write(content); err != nil {
		return err
	}
	return a.pad()
}

// end writes what ends an archive.
func (a *archive) end() error { return a.record("TRAILER!!!", 0, nil) }

func (a *archive) pad() error {
	_, err := a.Write(make([]byte, (4-a.size%4)%4))
	return err
}

func (a *archive) Write(p []byte) (int, error) {
	n, err := a.out.Write(p)
	a.size += int64(n)
	return n, err
}
