// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/doctor"
)

// tree is the directory below which the node's files are; "" is the node itself.
type tree string

func (t tree) path(name string) string {
	if t == "" {
		return name
	}
	return filepath.Join(string(t), name)
}

func (t tree) read(name string) ([]byte, error) { return os.ReadFile(t.path(name)) }

// glob returns the matching files, as names below the tree.
func (t tree) glob(pattern string) []string {
	matches, err := filepath.Glob(t.path(pattern))
	if err != nil {
		return nil // no such pattern matches anything
	}
	for i, match := range matches {
		matches[i] = match[len(strings.TrimSuffix(string(t), "/")):]
	}
	return matches
}

// programs returns what is executable in a directory; none where there is no such directory.
func (t tree) programs(dir string) ([]string, error) {
	entries, err := os.ReadDir(t.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		info, err := os.Stat(t.path(filepath.Join(dir, entry.Name())))
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

func (t tree) proc(pid int, name string) ([]byte, error) {
	return t.read(filepath.Join("/proc", strconv.Itoa(pid), name))
}

const ticks = 100 // a second has so many in /proc, on every architecture that Go knows

// started returns when a process was, or the zero time where that cannot be seen.
func (t tree) started(pid int) time.Time {
	if pid <= 0 {
		return time.Time{}
	}
	stat, err := t.proc(pid, "stat")
	if err != nil {
		return time.Time{}
	}
	machine, err := t.read("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	return parseStarted(string(stat), string(machine))
}

// parseStarted reads the 22nd field of a process's stat, which is counted from the machine's boot.
func parseStarted(stat, machine string) time.Time {
	_, booted, found := strings.Cut(machine, "\nbtime ")
	end := strings.LastIndexByte(stat, ')') // a program's name may have blanks and brackets
	fields := strings.Fields(stat[end+1:])
	const field = 22 - 3
	if !found || end < 0 || len(fields) <= field {
		return time.Time{}
	}
	booted, _, _ = strings.Cut(booted, "\n")
	seconds, err := strconv.ParseInt(booted, 10, 64)
	after, err2 := strconv.ParseInt(fields[field], 10, 64)
	if err != nil || err2 != nil {
		return time.Time{}
	}
	return time.Unix(seconds+after/ticks, 0)
}

// mountOf returns the mount that a directory lies on, as a process sees it.
func (t tree) mountOf(pid int, dir string) doctor.Mount {
	dir = t.resolved(dir)
	text, err := t.proc(pid, "mountinfo")
	if err != nil {
		return doctor.Mount{Dir: dir}
	}
	return parseMount(string(text), dir)
}

// resolved follows the links of as much of a path as there is: /var/run is one.
func (t tree) resolved(dir string) string {
	rest := ""
	for at := filepath.Clean(dir); at != "/" && at != "."; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(t.path(at)); err == nil {
			return filepath.Join(strings.TrimPrefix(real, strings.TrimSuffix(string(t), "/")), rest)
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
	return dir
}

// parseMount finds the deepest mount point above dir, of those the one that was mounted last.
func parseMount(mountinfo, dir string) doctor.Mount {
	m := doctor.Mount{Dir: dir}
	for line := range strings.Lines(mountinfo) {
		before, _, found := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !found || len(fields) < 6 {
			continue
		}
		point := escapes.Replace(fields[4])
		if !within(dir, point) || len(point) < len(m.Point) {
			continue
		}
		m.Point, m.Propagation = point, propagation(fields[6:])
	}
	return m
}

// contained reports whether this program runs in a container: process 1 is meshnetd, alone there, or has another root.
func (t tree) contained() (alone, contained bool) {
	first, err := t.read("/proc/1/comm")
	mine, err2 := t.read("/proc/self/comm")
	alone = err == nil && err2 == nil && string(first) == string(mine)
	text, err := t.read("/proc/1/mountinfo")
	own, err2 := t.read("/proc/self/mountinfo")
	return alone, alone || err == nil && err2 == nil && rootOf(string(text)) != rootOf(string(own))
}

// rootOf returns the device of the root directory, and which directory of that it is.
func rootOf(mountinfo string) (at [2]string) {
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/" {
			at = [2]string{fields[2], fields[3]}
		}
	}
	return at
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

func propagation(optional []string) string {
	kind := "private"
	for _, field := range optional {
		switch {
		case strings.HasPrefix(field, "shared:"):
			return "shared"
		case strings.HasPrefix(field, "master:"):
			kind = "slave"
		}
	}
	return kind
}

// escapes are undone for a path of mountinfo: the kernel writes these characters so, and no others.
var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`)

// newest returns which of the files was changed last, and when.
func (t tree) newest(files []string) (string, time.Time) {
	type change struct {
		file string
		at   time.Time
	}
	var changes []change
	for _, file := range files {
		if info, err := os.Stat(t.path(file)); err == nil {
			changes = append(changes, change{file, info.ModTime()})
		}
	}
	if len(changes) == 0 {
		return "", time.Time{}
	}
	last := slices.MaxFunc(changes, func(a, b change) int { return cmp.Or(a.at.Compare(b.at), 0) })
	return last.file, last.at
}
