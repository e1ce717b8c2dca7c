// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command demo shows meshnetd at work on one screen: a real containerd, a pod as the kubelet makes it, its
// rules, and its first connection. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

const limit = 2 * time.Minute

func main() {
	runtimes := flag.String("runtimes", "", "directory that integration/runtimes/build.sh built into")
	program := flag.String("meshnetd", "", "the meshnetd program")
	standin := flag.String("standin", "", "the stand-in program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, *runtimes, *program, *standin); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if errors.Is(ctx.Err(), context.Canceled) {
			fmt.Fprintln(os.Stderr, "demo: interrupted; everything is cleaned up")
		}
		os.Exit(1)
	}
}

// run starts everything and takes it away again, however it ends.
func run(ctx context.Context, runtimes, program, standin string) (err error) {
	l, err := lab.Start(ctx, lab.Options{Version: lab.Containerd24, Binaries: runtimes, Standin: standin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	daemon, err := l.RunDaemon(ctx, program, "")
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, daemon.Terminate(ctx))
	}()
	s := show{ctx: ctx, lab: l, daemon: daemon}
	return s.all()
}

// show is the story, told once.
type show struct {
	ctx    context.Context
	lab    *lab.Lab
	daemon *lab.Daemon
}

const destination = "203.0.113.10:443" // nobody's: only a redirected connection gets an answer

func (s show) all() error {
	connected, err := s.daemon.Wait(s.ctx, func(l lab.Line) bool { return l.Event == "nri_connected" })
	if err != nil {
		return err
	}
	fmt.Printf("meshnetd is connected by NRI to a private %s %s\n\n", connected.Runtime, connected.Version)

	pod, err := s.lab.RunPod(s.ctx, lab.PodSpec{Name: "web", Annotations: lab.Injected(nil)})
	if err != nil {
		return err
	}
	proxy, err := pod.CreateContainer(s.ctx, lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy"}, User: 1337, Group: 1337})
	if err != nil {
		return err
	}
	created := time.Now()
	protected, err := s.daemon.WaitPod(s.ctx, "pod_protected", "default/web")
	if err != nil {
		return err
	}
	fmt.Printf("1. The decision for pod default/web\n   redirect (%s): %s\n\n", protected.Reason, protected.Message)
	if err := s.rules(pod); err != nil {
		return err
	}
	fmt.Printf("3. The timeline, in microseconds\n   %8d  the runtime calls RunPodSandbox\n   %8d  rules applied, read back from the kernel and verified\n"+
		"   %8d  first container created\n\n", 0, protected.Took, created.UnixMicro()-protected.Began)
	if err := s.firstConnection(pod, proxy); err != nil {
		return err
	}
	return s.outsider()
}

// rules reads the namespace with the tool an operator would use.
func (s show) rules(pod *lab.Pod) error {
	const save = "iptables-nft-save" // netlink writes what it reads
	text, err := inside(s.ctx, pod, save)
	if err != nil {
		return err
	}
	fmt.Printf("2. Its rules, read back from the sandbox with %s\n", save)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, "*") {
			fmt.Print("   ", line)
		}
	}
	fmt.Println()
	return nil
}

func (s show) firstConnection(pod *lab.Pod, proxy *lab.Container) error {
	if err := proxy.Start(s.ctx); err != nil {
		return err
	}
	ready := func(e lab.Event) bool { return e.Event == "listening" && e.Addr == "0.0.0.0:15001" }
	if _, err := proxy.WaitFor(s.ctx, ready); err != nil {
		return err
	}
	app, err := pod.RunContainer(s.ctx, lab.ContainerSpec{Name: "app", Args: []string{"connect", "tcp4", destination}, User: 1000, Group: 1000})
	if err != nil {
		return err
	}
	answer, err := app.WaitFor(s.ctx, func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
	if err != nil {
		return err
	}
	if answer.Event == "failed" {
		return fmt.Errorf("the app's first connection was not redirected: %s", answer.Error)
	}
	seen, err := proxy.WaitEvent(s.ctx, "accepted")
	if err != nil {
		return err
	}
	fmt.Printf("4. The app's first act is connect() to %s\n   the proxy's %s listener (port 15001) got it, with original destination %s\n\n",
		destination, seen.Listener, seen.OriginalDst)
	return nil
}

// outsider runs a pod that the mesh does not know.
func (s show) outsider() error {
	pod, err := s.lab.RunPod(s.ctx, lab.PodSpec{Name: "plain"})
	if err != nil {
		return err
	}
	skipped, err := s.daemon.WaitPod(s.ctx, "pod_skipped", "default/plain")
	if err != nil {
		return err
	}
	text, err := inside(s.ctx, pod, "iptables-nft-save")
	if err != nil {
		return err
	}
	fmt.Printf("5. Pod default/plain, outside the mesh\n   skip (%s): %s; decided in %d microseconds, %d rules in its namespace\n",
		skipped.Reason, skipped.Message, skipped.Took, strings.Count(text, "\n-A "))
	return nil
}

func inside(ctx context.Context, pod *lab.Pod, program string) (string, error) {
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+pod.NetNS(), program).Output()
	if err != nil {
		return "", fmt.Errorf("%s in the sandbox: %w", program, err)
	}
	return string(out), nil
}
