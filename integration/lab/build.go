// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// BuildStandin builds the stand-in program and returns its path.
func BuildStandin(ctx context.Context) (string, error) {
	return Build(ctx, "standin", "./integration/standin", "-trimpath", "-ldflags", "-s -w")
}

// oneRun is the environment variable by which the processes of one run of tests know each other: a program is built for the
// first of them, and is the others' as it is.
const oneRun = "MESHNETD_TEST_RUN"

// OneRun makes this process and those that it starts one run of tests, unless it is part of one already.
func OneRun() error {
	if os.Getenv(oneRun) != "" {
		return nil
	}
	return os.Setenv(oneRun, fmt.Sprint(os.Getpid(), time.Now().UnixNano()))
}

// Build builds a program of the module that the current directory is in, and returns its path in the module's
// directory build. What is up to date stays as it is, and one builds at a time: another process may run it.
func Build(ctx context.Context, name, pkg string, flags ...string) (string, error) {
	root, err := FindRoot()
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	path := filepath.Join(root, "build", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	lock, err := os.Create(filepath.Join(filepath.Dir(path), "."+name+".lock"))
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("build %s: wait for another build of it: %w", name, err)
	}
	run, mark := os.Getenv(oneRun), filepath.Join(filepath.Dir(path), "."+name+".run")
	if built, err := os.ReadFile(mark); err == nil && run != "" && string(built) == run {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, flags, []string{"-o", path, pkg})...)
	cmd.Dir, cmd.Env = root, os.Environ()
	if !slices.Contains(flags, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	if err := os.WriteFile(mark, []byte(run), 0o644); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}
