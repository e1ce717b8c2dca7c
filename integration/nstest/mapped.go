// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errMissing is why tests cannot have a machine here.
var errMissing = errors.New("ids and namespaces of its own")

// Root reports whether this process is root of the whole system, not of a user namespace only.
func Root() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && os.Geteuid() == 0 && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// mapped are the ids that a machine in a user namespace has beside root: the kernel refuses owner matches by others,
// and OpenShift gives high ones.
var mapped = []struct{ first, count int }{{1, 65534}, {1000650000, 2}}

// needed is how many these are: what a user is granted as a rule.
func needed() (n int) {
	for _, ids := range mapped {
		n += ids.count
	}
	return n
}

// startMapped starts the command in a user namespace, and gives it this user as root and the ids that /etc/subuid
// and /etc/subgid grant the user.
func startMapped(cmd *exec.Cmd) error {
	const restricted = "kernel.apparmor_restrict_unprivileged_userns" // Ubuntu's
	if set, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(restricted, ".", "/")); err == nil && strings.TrimSpace(string(set)) != "0" {
		return fmt.Errorf("%w: %s is on: sysctl %s=0", errMissing, restricted, restricted)
	}
	uids, err := granted("/etc/subuid")
	if err != nil {
		return err
	}
	gids, err := granted("/etc/subgid")
	if err != nil {
		return err
	}
	hold, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer hold.Close()
	defer release.Close()
	cmd.Env, cmd.ExtraFiles = append(cmd.Env, stage+"="+waiting), []*os.File{hold}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: this kernel lets no user make them: %w", errMissing, err)
	}
	err = errors.Join(
		giveIDs("newuidmap", cmd.Process.Pid, os.Geteuid(), uids),
		giveIDs("newgidmap", cmd.Process.Pid, os.Getegid(), gids))
	if err == nil {
		_, err = release.Write([]byte{0})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	return err
}

func giveIDs(program string, pid, own, granted int) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	for _, ids := range mapped {
		args = append(args, strconv.Itoa(ids.first), strconv.Itoa(granted), strconv.Itoa(ids.count))
		granted += ids.count
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s (package uidmap): %w: %s", errMissing, program, err, bytes.TrimSpace(out))
	}
	return nil
}

// granted returns the first of the ids that the file grants this user.
func granted(file string) (int, error) {
	self, err := user.Current()
	if err != nil {
		return 0, err
	}
	lines, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errMissing, err)
	}
	for line := range strings.Lines(string(lines)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || fields[0] != self.Username && fields[0] != self.Uid {
			continue
		}
		begin, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil && count >= needed() {
			return begin, nil
		}
	}
	return 0, fmt.Errorf("%w: %s grants %s no range of %d ids (usermod --add-subuids, --add-subgids)", errMissing, file, self.Username, needed())
}

// becomeRoot waits until this process has its ids. Only a program that is run after that has root's capabilities.
func becomeRoot() error {
	hold := os.NewFile(3, "pipe")
	if _, err := io.ReadFull(hold, make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for ids: %w", err)
	}
	_ = hold.Close()
	self, err := os.Executable()
	if err == nil {
		err = os.Setenv(stage, entering)
	}
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, os.Environ())
}
