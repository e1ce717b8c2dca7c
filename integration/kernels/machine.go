// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernels

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// machine is a kernel of Debian's, and what is done to it before rows are run.
type machine struct {
	name    string
	suite   string // of Debian
	arm64   bool   // or else amd64
	lacks   string // for the table
	without string // modules that it does not have, a regular expression of their names
	append  string // to the kernel's command line
	setup   string // a line of shell
	node    bool   // it has what runs pods
	rows    []row
}

// row is a line of shell, which ends well, or with what is wanted where that is given.
type row struct {
	name, command string
	want          []string // in what is printed
	fails         bool
}

// result is what came of a row.
type result struct {
	output string
	status string // empty where the machine ended before the row did
}

// Modules that rules, traffic and containers need; the others would only be carried along.
var needed = regexp.MustCompile(`^kernel/(net/(802|bridge|core|ipv4|ipv6|llc|netfilter|sched)/|lib/|crypto/|arch/|drivers/net/(veth|dummy|tun|vxlan)[./]|fs/overlayfs/)`)

// first is the guest's first process. What rows print goes to the second serial line, apart from what the kernel says.
const first = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /proc /sys /dev /tmp /run /root /var/lib /again /etc
if [ -z "$again" ]; then # as a mount of its own, since nobody may change the kernel's first root for another one, as containers do
	mount --bind / /again && cd /again && mount --move . / && again=yes exec chroot . /init
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t tmpfs var /var/lib
mount -t cgroup2 cgroup /sys/fs/cgroup
for name in iptables ip6tables; do for verb in "" -save -restore; do ln -sf $name-nft$verb /usr/sbin/$name$verb; done; done
ln -sf bash /bin/sh
touch /etc/hosts /etc/resolv.conf
out=/dev/ttyS1
[ "$(uname -m)" = x86_64 ] || out=/dev/ttyS0 # where the console is called otherwise
exec </dev/null >$out 2>&1
stty raw -F $out # newlines as they are
ip link set lo up
row() {
	echo "@@@ begin"
	bash -c "$1"
	printf '\n@@@ end %s\n' $?
}
`

// boot writes what the machine boots into dir, from the userland and the files, and runs it. It calls done with each row's result.
func (m machine) boot(ctx context.Context, dir, kernel, userland string, files map[string]string, done func(row, result)) error {
	image, err := one(kernel, "boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
	if err != nil {
		return err
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := m.pack(ctx, initramfs, kernel, userland, files); err != nil {
		return fmt.Errorf("pack the initramfs: %w", err)
	}
	said := filepath.Join(dir, "console")
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-cpu", "max", "-append", "console=ttyS0 "+m.options(), "-serial", "file:"+said, "-serial", "stdio")
	if m.arm64 {
		qemu = exec.CommandContext(ctx, "qemu-system-aarch64", "-machine", "virt", "-cpu", "max,pauth-impdef=on", "-append", "console=ttyAMA0 "+m.options(),
			"-serial", "file:"+said, "-chardev", "stdio,id=rows", "-device", "pci-serial,chardev=rows")
	}
	// One processor, emulated: what nests virtual machines is rarely to be had, and tells nothing more about rules. Its clock counts
	// instructions, a billion to a second: however slow the emulation is, the deadlines of what runs in it are those of a slow machine.
	qemu.Args = append(qemu.Args, "-accel", "tcg", "-smp", "1", "-icount", "shift=0,sleep=off", "-m", "4096", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-kernel", image, "-initrd", initramfs)
	runtime.LockOSThread() // with which the machine would end
	defer runtime.UnlockOSThread()
	var problems bytes.Buffer
	qemu.Stderr, qemu.SysProcAttr = &problems, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := qemu.StdoutPipe()
	if err != nil {
		return err
	}
	if err := qemu.Start(); err != nil {
		return err
	}
	left := m.rows
	var output strings.Builder
	for lines := bufio.NewScanner(out); len(left) > 0 && lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if status, ended := strings.CutPrefix(line, "@@@ end "); ended {
			done(left[0], result{output.String(), status})
			left = left[1:]
		} else if line == "@@@ begin" {
			output.Reset()
		} else {
			output.WriteString(line + "\n")
		}
	}
	_ = qemu.Process.Kill() // it has nothing left to do
	err = qemu.Wait()
	if len(left) == 0 {
		return nil
	}
	for _, r := range left {
		done(r, result{output: output.String()})
	}
	console, readErr := os.ReadFile(said)
	return fmt.Errorf("the machine ended before its rows: %w: %s\n%s", errors.Join(err, readErr, ctx.Err()), problems.Bytes(), console[max(0, len(console)-4000):])
}

// options are those of the kernel.
func (m machine) options() string { return "quiet panic=-1 rdinit=/init " + m.append }

// one returns the file of a tree that one of the patterns is of, since releases of Debian put it elsewhere.
func one(tree string, patterns ...string) (string, error) {
	var found []string
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return "", err
		}
		found = append(found, files...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s holds %d of %q, want one", tree, len(found), patterns)
	}
	return found[0], nil
}

func (m machine) pack(ctx context.Context, path, kernel, userland string, files map[string]string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	a := &archive{out: buffered, made: map[string]bool{}}
	modules, err := m.modules(ctx, filepath.Dir(path), kernel)
	if err != nil {
		return err
	}
	script := first + m.setup + "\n"
	for _, r := range m.rows {
		script += "row '" + strings.ReplaceAll(r.command, "'", `'\''`) + "'\n"
	}
	script += "sleep infinity\n"
	if err := a.entry("init", 0o100755, []byte(script)); err != nil {
		return err
	}
	for at, file := range files {
		if err := a.tree(file, at); err != nil {
			return err
		}
	}
	if err := errors.Join(a.tree(userland, "."), a.tree(modules, "lib/modules"), a.end()); err != nil {
		return err
	}
	return buffered.Flush()
}

// modules returns a directory with those of the kernel's modules that the machine has, and their index.
func (m machine) modules(ctx context.Context, dir, kernel string) (string, error) {
	found, err := one(kernel, "lib/modules/*/kernel", "usr/lib/modules/*/kernel")
	if err != nil {
		return "", err
	}
	source := filepath.Dir(found)
	version := filepath.Base(source)
	dest := filepath.Join(dir, "lib", "modules", version)
	without := regexp.MustCompile(`/(` + m.without + `)\.ko`)
	err = filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		below := strings.TrimPrefix(path, source+"/")
		index := strings.HasPrefix(below, "modules.builtin") || below == "modules.order"
		if err != nil || entry.IsDir() || !index && (!needed.MatchString(below) || m.without != "" && without.MatchString(path)) {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(dest, below)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o644)
	})
	if err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "depmod", "-b", dir, version).CombinedOutput(); err != nil {
		return "", fmt.Errorf("depmod: %w: %s", err, out)
	}
	return filepath.Dir(dest), nil
}
