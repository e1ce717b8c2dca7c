// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package nstest makes network namespaces for tests: anonymous ones, held open by the test process, so
// that nothing is left behind however the test ends.
package nstest

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace with lo up.
type Namespace struct {
	Path string // valid in this process and its children while the test runs
	file *os.File
}

// Require skips the test where the machine cannot run it. With MESHNETD_REQUIRE=1, as in CI, that is a
// failure: nothing is skipped silently.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	at := os.Getenv(stage)
	if at == "" { // as root they would run, and nobody else's would
		t.Fatal("the package's tests need a TestMain with nstest.Main")
	}
	if at != inside {
		Lack(t, at)
	}
	for _, program := range append(programs, "ip", "nsenter") {
		if _, err := exec.LookPath(program); err != nil {
			Lack(t, program+" (make deps installs programs)")
		}
	}
}

// RequireRoot is Require for what the kernel lets root of the whole system do only.
func RequireRoot(t testing.TB, programs ...string) {
	t.Helper()
	if !Root() {
		Lack(t, "root of the whole system (make test)")
	}
	Require(t, programs...)
}

// Lack ends a test for want of something.
func Lack(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("MESHNETD_REQUIRE") == "1" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

// New makes a namespace with these addresses on eth0, the other end of which is in the namespace that
// Peer returns, or nowhere.
func New(t testing.TB, addresses ...string) *Namespace {
	t.Helper()
	Require(t)
	ns := open(t)
	if len(addresses) == 0 {
		return ns
	}
	lines := "link add eth0 up type veth peer name other0\n"
	for _, address := range addresses {
		lines += "addr add " + address + " dev eth0 nodad\n"
	}
	ns.RunInput(t, lines, "ip", "-batch", "-")
	return ns
}

// Peer makes a second namespace, joined to the first by a cable, and gives each end an address of every
// prefix: the first address of it to ns, the second to the peer, which becomes the default gateway.
func (ns *Namespace) Peer(t testing.TB, prefixes ...string) *Namespace {
	t.Helper()
	peer := open(t)
	ours, theirs := "link add eth0 up type veth peer name eth0 netns "+peer.Path+"\n", "link set eth0 up\n"
	for _, text := range prefixes {
		prefix := netip.MustParsePrefix(text)
		first := prefix.Masked().Addr().Next()
		second := first.Next()
		ours += fmt.Sprintf("addr add %s/%d dev eth0 nodad\nroute add default via %s\n", first, prefix.Bits(), second)
		theirs += fmt.Sprintf("addr add %s/%d dev eth0 nodad\n", second, prefix.Bits())
	}
	ns.RunInput(t, ours, "ip", "-batch", "-")
	peer.RunInput(t, theirs, "ip", "-batch", "-")
	return peer
}

// Command returns a command that will run in the namespace.
func (ns *Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + ns.Path, name}, args...)...)
}

// Run runs a program in the namespace and returns what it printed; its failure is the test's.
func (ns *Namespace) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return ns.RunInput(t, "", name, args...)
}

// RunInput is Run with standard input.
func (ns *Namespace) RunInput(t testing.TB, input, name string, args ...string) string {
	t.Helper()
	cmd := ns.Command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// Own has nft make what its commands say in the namespace, of which a table with flags owner goes when end is called. It returns when
// nft lists text.
func (ns *Namespace) Own(t testing.TB, text, commands string) (end func()) {
	t.Helper()
	cmd := ns.Command("nft", "-i")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = io.WriteString(in, commands)
	}
	if err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	for until := time.Now().Add(20 * time.Second); !strings.Contains(ns.Run(t, "nft", "list", "ruleset"), text); {
		if time.Now().After(until) {
			t.Fatalf("nft does not make %s", text)
		}
	}
	return end
}

func open(t testing.TB) *Namespace {
	t.Helper()
	file, err := unshare()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &Namespace{Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), file: file}
}

// unshare makes the namespace, with lo up, on a thread that ends with it. The process's first thread cannot end, and
// /proc/self speaks for the process by it, so it is kept busy meanwhile where it comes up.
func unshare() (file *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			file, err = unshare()
			runtime.UnlockOSThread()
			return
		}
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if err = raiseLoopback(); err != nil {
			return
		}
		file, err = os.Open("/proc/thread-self/ns/net")
	}()
	<-done
	return file, err
}
