// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// stage is the environment variable that tells a process of a test where it is: on its way to a machine, inside,
// or outside for good, for the reason it gives.
const (
	stage    = "MESHNETD_MACHINE"
	waiting  = "waiting" // for its ids
	entering = "entering"
	inside   = "inside"
)

// Main runs a package's tests on a machine of their own, made of namespaces: its network is nobody else's, nor are
// /run and /var/lib, where runtimes keep what cannot be put elsewhere. So packages run beside each other, and the
// whole machine can be compared with what it was. Without root the machine is in a user namespace. The processes'
// namespace stays: that of another one would make the tests' network look like a container's. No process is left of a
// machine, however its tests end.
func Main(m *testing.M) {
	runtime.LockOSThread() // the tests end with the thread that started them
	os.Exit(run(m.Run, func() (int, error) { return enter(os.Args[1:], os.Stdout) }))
}

func run(tests func() int, enter func() (int, error)) int {
	var status int
	var err error
	switch os.Getenv(stage) {
	case "":
		go endWithParent()
		if status, err = enter(); errors.Is(err, errMissing) {
			if err = os.Setenv(stage, err.Error()); err == nil {
				return tests()
			}
		}
	case waiting:
		err = becomeRoot()
	case entering:
		if err = furnish(); err == nil {
			status, err = keep()
		}
	default:
		return tests()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nstest: a machine for the tests: %v\n", err)
		return 2
	}
	return status
}

// enter runs this program once more, on a new machine, and returns its exit status.
func enter(args []string, out io.Writer) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), stage+"="+entering)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if os.Geteuid() == 0 {
		err = cmd.Start()
	} else {
		err = startMapped(cmd)
	}
	if err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// furnish puts up what the tests find on their machine.
func furnish() error {
	err := errors.Join(
		os.Setenv(stage, inside),
		raiseLoopback(),
		mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"))
	if err != nil || !Root() { // what follows is for runtimes
		return err
	}
	const cgroups, upper, work, temporary = "/run/cgroups", "/run/lib/upper", "/run/lib/work", "/run/tmp"
	for _, dir := range []string{cgroups, upper, work, temporary} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		// Runtimes wait for their disk at every step, and nothing here is to outlast the machine. What is compiled may be large.
		os.Setenv("GOTMPDIR", cmp.Or(os.Getenv("GOTMPDIR"), os.TempDir())),
		os.Setenv("TMPDIR", temporary),
		mount("tmpfs", temporary, "tmpfs", 0, "mode=1777"),
		mount("/sys/fs/cgroup", cgroups, "", unix.MS_BIND|unix.MS_REC, ""),
		mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""), // shows the interfaces of whoever mounts it
		mount(cgroups, "/sys/fs/cgroup", "", unix.MS_MOVE, ""),
		mount("overlay", "/var/lib", "overlay", 0, "lowerdir=/var/lib,upperdir="+upper+",workdir="+work))
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}
