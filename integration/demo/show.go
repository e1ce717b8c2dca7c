// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// show is the story, told once.
type show struct {
	ctx     context.Context
	lab     *lab.Lab
	program string
	screen  *screen
	daemon  *lab.Daemon // nil while there is none

	server     *lab.Container
	serverAddr string
	times      times
}

func (s *show) all() error {
	for _, act := range []func() error{s.open, s.without, s.with, s.killed, s.outsider} {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}

// end ends the daemon, if there is one.
func (s *show) end() error {
	if s.daemon == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 10*time.Second)
	defer cancel()
	return s.daemon.Terminate(ctx)
}

// open makes a server outside the mesh.
func (s *show) open() error {
	s.screen.say("A private containerd, a server, and pods of an Istio mesh whose apps connect to it as their first act.")
	pod, err := s.lab.RunPod(s.ctx, lab.PodSpec{Name: "server"})
	if err != nil {
		return err
	}
	s.serverAddr = fmt.Sprintf("%s:8080", pod.IP())
	if s.server, err = pod.RunContainer(s.ctx, lab.ContainerSpec{Name: "server", Args: []string{"serve", "0.0.0.0:8080", "server"}}); err != nil {
		return err
	}
	_, err = s.server.WaitEvent(s.ctx, "listening")
	return err
}

// without is what fails where nobody writes rules.
func (s *show) without() error {
	s.screen.head("1. Nobody writes the rules")
	pod, err := s.lab.RunPod(s.ctx, lab.PodSpec{Name: "unprotected", Annotations: lab.Injected(nil)})
	if err != nil {
		return err
	}
	proxy, _, err := s.sidecar(pod)
	if err != nil {
		return err
	}
	if _, err := s.app(pod); err != nil {
		return err
	}
	// The app is connected before the server has said so.
	if _, err := s.server.WaitFor(s.ctx, from(pod)); err != nil {
		return fmt.Errorf("without rules the server was not reached: %w", err)
	}
	if caught, err := accepted(proxy); err != nil || caught > 0 {
		return errors.Join(fmt.Errorf("without rules the sidecar got %d connections", caught), err)
	}
	s.screen.verdict(bad, "AROUND", "the server was reached from the pod itself; the sidecar listens, and has seen nothing")
	return pod.Remove(s.ctx)
}

// required is the annotation by which the runtime keeps containers back while meshnetd is away.
func required() map[string]string {
	return lab.Injected(map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`})
}

func (s *show) start() (lab.Line, error) {
	var err error
	if s.daemon, err = s.lab.RunDaemon(s.ctx, s.program, ""); err != nil {
		return lab.Line{}, err
	}
	return s.daemon.Wait(s.ctx, func(l lab.Line) bool { return l.Event == "nri_connected" })
}

// with is the same pod, with meshnetd.
func (s *show) with() error {
	s.screen.head("2. meshnetd does")
	runtime, err := s.start()
	if err != nil {
		return err
	}
	s.screen.say("connected by NRI to %s %s", runtime.Runtime, runtime.Version)
	began := time.Now()
	pod, took, err := s.lab.TimePod(s.ctx, lab.PodSpec{Name: "web", Annotations: required()})
	if err != nil {
		return err
	}
	proxy, created, err := s.sidecar(pod)
	if err != nil {
		return err
	}
	protected, err := s.daemon.WaitPod(s.ctx, "pod_protected", "default/web")
	if err != nil {
		return err
	}
	s.screen.say("pod default/web: redirect (%s): %s", protected.Reason, protected.Message)
	if err := s.rules(pod); err != nil {
		return err
	}
	connect, err := s.app(pod)
	if err != nil {
		return err
	}
	s.times = times{sandbox: took, hook: time.UnixMicro(protected.Began).Sub(began), verified: time.Duration(protected.Took) * time.Microsecond,
		created: created.Sub(began), connect: connect.Sub(began), rules: protected.Rules}
	for _, moment := range []struct {
		at   time.Duration
		text string
	}{{0, "the runtime is asked for the sandbox"}, {s.times.hook, "it has its network; the runtime asks meshnetd"},
		{s.times.hook + s.times.verified, "rules written, read back from the kernel and verified"}, {s.times.created, "first container created"},
		{s.times.connect, "the app connects"}} {
		s.screen.say("%8d µs  %s", moment.at.Microseconds(), moment.text)
	}
	return s.caught(pod, proxy)
}

// rules reads the namespace with the tool an operator would use.
func (s *show) rules(pod *lab.Pod) error {
	const save = "iptables-nft-save" // netlink writes what it reads
	text, err := inside(s.ctx, pod, save)
	if err != nil {
		return err
	}
	s.screen.say("%d rules, as %s reads them in the sandbox; among them", strings.Count(text, "\n-A "), save)
	for line := range strings.Lines(text) {
		if strings.Contains(line, "REDIRECT --to-ports") {
			s.screen.code(strings.TrimSpace(line))
		}
	}
	return nil
}

// killed is what happens to a pod that starts while meshnetd is dead.
func (s *show) killed() error {
	s.screen.head("3. meshnetd is killed, and a pod starts")
	s.daemon.Kill()
	s.daemon = nil
	pod, err := s.lab.RunPod(s.ctx, lab.PodSpec{Name: "waits", Annotations: required()})
	if err != nil {
		return err
	}
	const want = `required plugin "meshnetd" not present`
	if _, _, err = s.sidecar(pod); err == nil || !strings.Contains(err.Error(), want) {
		return fmt.Errorf("a container without meshnetd: %w, want %s", err, want)
	}
	s.screen.verdict(good, "WAITS", "its containers are refused: "+want)
	if _, err := s.start(); err != nil {
		return err
	}
	s.screen.say("meshnetd is back, and the kubelet tries again")
	proxy, _, err := s.sidecar(pod)
	if err != nil {
		return err
	}
	if _, err := s.app(pod); err != nil {
		return err
	}
	return s.caught(pod, proxy)
}

// outsider runs a pod that the mesh does not know.
func (s *show) outsider() error {
	s.screen.head("4. A pod outside the mesh")
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
	s.screen.say("pod default/plain: skip (%s): %s", skipped.Reason, skipped.Message)
	s.screen.verdict(good, "COSTS", fmt.Sprintf("decided in %d µs, %d rules in its namespace", skipped.Took, strings.Count(text, "\n-A ")))
	return nil
}

// sidecar starts the proxy, and returns when it was created and listens.
func (s *show) sidecar(pod *lab.Pod) (*lab.Container, time.Time, error) {
	proxy, err := pod.CreateContainer(s.ctx, lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy"}, User: 1337, Group: 1337})
	created := time.Now()
	if err == nil {
		err = proxy.Start(s.ctx)
	}
	if err != nil {
		return nil, created, err
	}
	_, err = proxy.WaitFor(s.ctx, func(e lab.Event) bool { return e.Event == "listening" && e.Addr == "0.0.0.0:15001" })
	return proxy, created, err
}

// app connects to the server as its first act, and returns when.
func (s *show) app(pod *lab.Pod) (time.Time, error) {
	app, err := pod.RunContainer(s.ctx, lab.ContainerSpec{Name: "app", Args: []string{"connect", "tcp4", s.serverAddr}, User: 1000, Group: 1000})
	if err != nil {
		return time.Time{}, err
	}
	answer, err := app.WaitFor(s.ctx, func(e lab.Event) bool { return e.Event == "connected" || e.Event == "failed" })
	if err != nil {
		return time.Time{}, err
	}
	if answer.Event == "failed" {
		return time.Time{}, fmt.Errorf("the app's first connection failed: %s", answer.Error)
	}
	return time.Unix(0, answer.Started), nil
}

// caught says that the sidecar has the app's connection, and the server has seen nothing of it.
func (s *show) caught(pod *lab.Pod, proxy *lab.Container) error {
	seen, err := proxy.WaitEvent(s.ctx, "accepted")
	if err != nil {
		return err
	}
	reached, err := s.reached(pod)
	if err != nil {
		return err
	}
	if reached || seen.OriginalDst != s.serverAddr {
		return fmt.Errorf("the sidecar got a connection to %s, and the server was reached: %t", seen.OriginalDst, reached)
	}
	s.screen.verdict(good, "CAUGHT", fmt.Sprintf("the sidecar's %s listener (port 15001) got it, with the server as its original destination; the server has seen nothing", seen.Listener))
	return nil
}

// reached reports whether the server has a connection from the pod itself.
func (s *show) reached(pod *lab.Pod) (bool, error) {
	events, err := s.server.Events()
	return slices.ContainsFunc(events, from(pod)), err
}

// from tells the connections that come from the pod itself.
func from(pod *lab.Pod) func(lab.Event) bool {
	return func(e lab.Event) bool {
		return e.Event == "accepted" && strings.HasPrefix(e.Peer, pod.IP().String()+":")
	}
}

func accepted(c *lab.Container) (n int, err error) {
	events, err := c.Events()
	for _, e := range events {
		if e.Event == "accepted" {
			n++
		}
	}
	return n, err
}

func inside(ctx context.Context, pod *lab.Pod, program string) (string, error) {
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+pod.NetNS(), program).Output()
	if err != nil {
		return "", fmt.Errorf("%s in the sandbox: %w", program, err)
	}
	return string(out), nil
}
