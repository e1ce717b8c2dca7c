// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package systemd shows that meshnetd's package and unit do on a real systemd what they say.
package systemd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// require skips the test where the machine cannot run it.
func require(t *testing.T) (tree string) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, errors.New("needs root"))
	}
	for _, program := range []string{"debootstrap", "systemd-nspawn", "systemd-analyze", "nsenter", "dpkg"} {
		if _, err := exec.LookPath(program); err != nil {
			unable(t, fmt.Errorf("needs %s, which make deps installs: %w", program, err))
		}
	}
	return debian(t)
}

// The life of a package on a node: each step stands on the one before.
func TestLife(t *testing.T) {
	l := begin(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"installed, and nothing is running", l.installs},
		{"exposed as little as it says", l.hardened},
		{"a runtime that never comes holds the kubelet for a time only", l.withoutRuntime},
		{"ready when the runtime is", l.becomesReady},
		{"protects a pod", l.protects},
		{"needs what it has", l.needs},
		{"killed", l.killed},
		{"hung", l.hung},
		{"reloads", l.reloads},
		{"removed", l.removed},
		{"purged", l.purged},
	} {
		began := time.Now()
		if !t.Run(step.name, step.run) {
			t.Fatalf("the rest needs this step; the journal of meshnetd:\n%s", l.must(t, "journalctl", "-u", "meshnetd", "-n", "80", "--no-pager"))
		}
		t.Logf("%s: %s", step.name, time.Since(began).Round(10*time.Millisecond))
	}
}

func (l *life) installs(t *testing.T) {
	l.must(t, "dpkg", "--install", "/shared/v1.0.0.deb")
	for what, want := range map[string]string{"is-enabled": "disabled", "is-active": "inactive"} {
		if got, _ := l.run(t.Context(), "systemctl", what, "meshnetd"); strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, want %s: a node's administrator switches it on", what, got, want)
		}
	}
	if got := l.must(t, "meshnetd", "version"); !strings.Contains(got, "v1.0.0 ") {
		t.Errorf("installed is %s", got)
	}
	if got, want := l.must(t, "cat", configuration), l.must(t, "meshnetd", "check", "--print-reference"); got != want {
		t.Error("the configuration is not the reference")
	}
	if got := l.must(t, "man", "--where", "meshnetd-reload"); !strings.Contains(got, "meshnetd-reload.1") {
		t.Errorf("no man page: %s", got)
	}
	if got := l.must(t, "bash", "-c", ". /usr/share/bash-completion/completions/meshnetd && meshnetd __complete ver 2>/dev/null"); !strings.Contains(got, "verify") {
		t.Errorf("completion of ver: %s", got)
	}
	l.must(t, "systemd-analyze", "verify", "/usr/lib/systemd/system/meshnetd.service")
	// What the operator does.
	l.must(t, "install", "-D", "-m", "644", "/usr/share/meshnetd/containerd/meshnetd.toml", "/etc/containerd/conf.d/meshnetd.toml")
	l.must(t, "systemctl", "restart", "containerd")
	l.configure(t, "")
}

func (l *life) hardened(t *testing.T) {
	out, err := l.run(t.Context(), "systemd-analyze", "security", "--no-pager", "--threshold=25", "meshnetd.service")
	if err != nil {
		t.Errorf("exposed more than 2.5: %v\n%s", err, last(out, 90))
	}
	t.Log(last(out, 1))
	for _, capability := range []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"} {
		l.dropIn(t, "CapabilityBoundingSet=~"+capability)
		if _, err := l.run(t.Context(), "systemctl", "start", "meshnetd"); err == nil {
			t.Errorf("it starts without %s: the unit has it for nothing", capability)
		}
		l.must(t, "systemctl", "stop", "meshnetd")
	}
	l.dropIn(t, "")
}

// withoutRuntime has a stand-in kubelet, and a short limit in place of the unit's.
func (l *life) withoutRuntime(t *testing.T) {
	l.write(t, "/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/bin/sleep infinity\n")
	if limit := l.show("meshnetd", "TimeoutStartUSec"); limit != "1min 30s" {
		t.Errorf("the kubelet would wait for %s", limit)
	}
	l.dropIn(t, "TimeoutStartSec=4s")
	l.must(t, "systemctl", "stop", "containerd")
	l.must(t, "systemctl", "start", "--no-block", "meshnetd", "kubelet")
	l.eventually(t, "meshnetd waits, and says for what", func() bool {
		return strings.Contains(l.show("meshnetd", "StatusText"), "waiting for the runtime's NRI socket /var/run/nri/nri.sock")
	})
	if state := l.show("kubelet", "ActiveState"); state != "inactive" {
		t.Errorf("the kubelet is %s while meshnetd waits for the runtime", state)
	}
	l.eventually(t, "the kubelet starts without it", func() bool { return l.show("kubelet", "ActiveState") == "active" })
	l.eventually(t, "meshnetd is tried again", func() bool { return l.show("meshnetd", "NRestarts") >= "2" })
	l.must(t, "systemctl", "stop", "kubelet", "meshnetd")
	l.dropIn(t, "")
}

func (l *life) becomesReady(t *testing.T) {
	l.must(t, "systemctl", "enable", "meshnetd")
	l.must(t, "systemctl", "start", "--no-block", "meshnetd", "kubelet")
	l.eventually(t, "meshnetd waits", func() bool { return strings.Contains(l.show("meshnetd", "StatusText"), "waiting") })
	if state := l.show("meshnetd", "ActiveState"); state != "activating" {
		t.Errorf("without a runtime it is %s", state)
	}
	l.must(t, "systemctl", "start", "containerd")
	l.eventually(t, "meshnetd is ready", func() bool { return l.show("meshnetd", "ActiveState") == "active" })
	l.eventually(t, "the kubelet follows", func() bool { return l.show("kubelet", "ActiveState") == "active" })
	synced, ready := l.eventTime(t, "nri_connected"), microseconds(t, l.show("meshnetd", "ActiveEnterTimestampMonotonic"))
	if ready < synced {
		t.Errorf("ready %d us before the session began", synced-ready)
	}
	if text := l.show("meshnetd", "StatusText"); !strings.Contains(text, "protecting 0 pods, containerd v2.4") || !strings.Contains(text, "tier guaranteed") {
		t.Errorf("it says %q", text)
	}
	proc := l.must(t, "cat", "/proc/"+l.show("meshnetd", "MainPID")+"/status")
	// CAP_NET_ADMIN is 12, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21.
	want := fmt.Sprintf("%016x", 1<<12|1<<19|1<<21)
	for _, line := range []string{"CapEff:\t" + want, "CapBnd:\t" + want, "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(proc, line) {
			t.Errorf("there is no %q in\n%s", line, proc)
		}
	}
}

func (l *life) protects(t *testing.T) {
	l.first = l.start(t, "default", "first")
	if !strings.HasPrefix(l.first.netns, "/var/run/netns/") {
		t.Errorf("the namespace is at %s, so that this shows nothing about mounts", l.first.netns)
	}
	l.rules = l.first.rules(t)
	if !strings.Contains(l.rules, "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001") {
		t.Errorf("rules of the first pod:\n%s", l.rules)
	}
	l.whole(t, "default/first")
	l.eventually(t, "the status counts it", func() bool { return strings.Contains(l.show("meshnetd", "StatusText"), "protecting 1 pods") })
	if n := l.events(t, "pod_protected", "default/first"); n != 1 {
		t.Errorf("%d events pod_protected in the journal", n)
	}
}

// needs shows that nothing that writes rules meets the unit's walls, and what one more capability is for.
func (l *life) needs(t *testing.T) {
	for way, want := range map[string]string{"iptables-exec": "iptables-exec nftables", "auto": "iptables nftables"} {
		l.configure(t, "backend = \""+way+"\"\n")
		l.must(t, "systemctl", "restart", "meshnetd")
		self, tried := l.show("meshnetd", "MainPID"), []string(nil)
		for _, e := range l.journal(t, "backend_tried") {
			if e.PID != self {
				continue // one that was stopped before
			}
			if tried = append(tried, e.Backend); e.Error != "" {
				t.Errorf("within the unit's walls: %s", e.Error)
			}
		}
		if got := strings.Join(tried, " "); got != want {
			t.Errorf("backend = %q tried %q, not %q", way, got, want)
		}
	}
	l.configure(t, "")
	look := func(capabilities string) error {
		_, err := l.run(t.Context(), "systemd-run", "--quiet", "--wait", "--property=ProtectProc=invisible", "--property=NoNewPrivileges=yes",
			"--property=CapabilityBoundingSet="+capabilities, "stat", "--dereference", fmt.Sprintf("/proc/%d/ns/net", l.first.pid))
		return err
	}
	if err := look("CAP_SYS_ADMIN CAP_NET_ADMIN CAP_SYS_PTRACE"); err != nil {
		t.Errorf("the namespace of a pod's process: %v", err)
	}
	if look("CAP_SYS_ADMIN CAP_NET_ADMIN") == nil {
		t.Error("the namespace of a pod's process can be opened without CAP_SYS_PTRACE: the unit has it for nothing")
	}
}

func (l *life) killed(t *testing.T) {
	const moreThanSystemdStandsByItself = 6 // 5 starts in 10 seconds
	for range moreThanSystemdStandsByItself - 1 {
		before := l.show("meshnetd", "MainPID")
		l.must(t, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", "meshnetd")
		l.restarted(t, before)
	}
	before := l.show("meshnetd", "MainPID")
	l.must(t, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", "meshnetd")
	second := l.start(t, "default", "second")
	l.restarted(t, before)
	if got := second.rules(t); got != l.rules {
		t.Errorf("rules of the second pod:\n%s", got)
	}
	l.stays(t)
	l.whole(t, "--all")
}

func (l *life) hung(t *testing.T) {
	before := l.show("meshnetd", "MainPID")
	l.must(t, "kill", "-STOP", before)
	p, err := l.sandbox(t.Context(), "default", "meanwhile")
	if err == nil {
		err = p.container(t.Context(), "app")
	}
	if err == nil {
		t.Error("a container was started while meshnetd hung")
	}
	began := time.Now()
	l.restarted(t, before)
	t.Logf("hung for %s more", time.Since(began).Round(time.Second))
	if out := l.must(t, "journalctl", "-u", "meshnetd", "--no-pager"); !strings.Contains(out, "Watchdog timeout") || !strings.Contains(out, "SIGABRT: abort") {
		t.Error("the journal has no watchdog, or not what the goroutines were at")
	}
	third := l.start(t, "default", "third")
	if got := third.rules(t); got != l.rules {
		t.Errorf("rules of the third pod:\n%s", got)
	}
	l.stays(t)
}

func (l *life) reloads(t *testing.T) {
	before := l.show("meshnetd", "MainPID")
	lost := l.events(t, "nri_lost", "")
	l.configure(t, "exclude_namespaces = [\"left-alone\"]\n")
	l.must(t, "systemctl", "reload", "meshnetd")
	// At once: the command has waited.
	if got := l.start(t, "left-alone", "excluded").rules(t); got != "" {
		t.Errorf("the new configuration does not count:\n%s", got)
	}
	if n := l.events(t, "config_reloaded", ""); n != 1 {
		t.Errorf("%d events config_reloaded", n)
	}

	l.configure(t, "exclude_namespaces = []\nno_such_key = true\n")
	if _, err := l.run(t.Context(), "systemctl", "reload", "meshnetd"); err == nil {
		t.Error("a bad configuration is reloaded without an error")
	}
	l.eventually(t, "it says what is bad", func() bool { return strings.Contains(l.show("meshnetd", "StatusText"), "no_such_key") })
	if l.events(t, "config_rejected", "") == 0 {
		t.Error("no event config_rejected")
	}
	if out := l.must(t, "journalctl", "-u", "meshnetd", "-o", "cat", "--no-pager"); !strings.Contains(out, configuration+":3") {
		t.Errorf("the journal names no line:\n%s", last(out, 20))
	}
	if got := l.start(t, "left-alone", "excluded-still").rules(t); got != "" {
		t.Errorf("the bad configuration counts:\n%s", got)
	}

	if out := l.must(t, "journalctl", "--catalog", "--no-pager", "MESHNETD_EVENT=config_rejected"); !strings.Contains(out, "Subject:") {
		t.Errorf("journalctl -x explains nothing:\n%s", out)
	}

	l.configure(t, "")
	l.must(t, "kill", "-HUP", before) // as where there is no systemctl
	l.eventually(t, "the good one is taken over", func() bool { return l.events(t, "config_reloaded", "") == 2 })
	l.eventually(t, "and the status has nothing to complain of", func() bool { return !strings.Contains(l.show("meshnetd", "StatusText"), "bad") })
	if got := l.start(t, "left-alone", "included").rules(t); got != l.rules {
		t.Errorf("the signal does not count:\n%s", got)
	}
	if pid := l.show("meshnetd", "MainPID"); pid != before || l.events(t, "nri_lost", "") != lost || l.show("meshnetd", "ActiveState") != "active" {
		t.Errorf("a reload made a gap: process %s, before %s", pid, before)
	}
	l.stays(t)
}

// From what was frozen at a commit; the package of this source tree is installed over it.
func TestUpgrade(t *testing.T) {
	l := begin(t)
	if err := os.WriteFile(filepath.Join(l.shared, "v0.9.0.deb"), frozen(t), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must(t, "dpkg", "--install", "/shared/v0.9.0.deb")
	l.must(t, "install", "-D", "-m", "644", "/usr/share/meshnetd/containerd/meshnetd.toml", "/etc/containerd/conf.d/meshnetd.toml")
	l.must(t, "systemctl", "restart", "containerd")
	l.configure(t, "")
	l.must(t, "systemctl", "start", "meshnetd")
	l.protects(t)
	if got := l.must(t, "meshnetd", "version"); !strings.Contains(got, "v0.9.0 ") {
		t.Fatalf("installed is %s", got)
	}
	l.upgraded(t)
	if t.Failed() {
		t.Log(l.must(t, "journalctl", "-u", "meshnetd", "-n", "80", "--no-pager"))
	}
}

func (l *life) upgraded(t *testing.T) {
	before := l.show("meshnetd", "MainPID")
	l.configure(t, "no_such_key = true\n")
	// The reference has changed since, and the administrator keeps what is configured.
	l.must(t, "dpkg", "--force-confold", "--install", "/shared/v1.0.0.deb")
	if pid := l.show("meshnetd", "MainPID"); pid != before || l.show("meshnetd", "ActiveState") != "active" {
		t.Error("an upgrade to a version that does not take the configuration ended the one before")
	}
	l.configure(t, "")
	kept := l.must(t, "cat", configuration)
	ctx, over := within(t, time.Minute), make(chan struct{})
	var pods []*pod
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; failed == nil; i++ {
			p, err := l.bringUp(ctx, "default", fmt.Sprintf("upgrade-%d", i))
			pods, failed = append(pods, p), err
			select {
			case <-over:
				return
			default:
			}
		}
	})
	out := l.must(t, "dpkg", "--force-confold", "--install", "/shared/v1.0.0.deb")
	close(over)
	if wg.Wait(); failed != nil {
		t.Fatal(failed)
	}
	t.Logf("%d pods started meanwhile; %s", len(pods), last(out, 1))
	if got := l.must(t, "meshnetd", "status", "--json"); !strings.Contains(got, `"version": "v1.0.0"`) {
		t.Errorf("after the upgrade there runs\n%s", got)
	}
	if got := l.must(t, "cat", configuration); got != kept {
		t.Errorf("the upgrade changed the configuration:\n%s", got)
	}
	for _, p := range pods {
		if got := p.rules(t); got != l.rules {
			t.Errorf("rules of %s:\n%s", p.name, got)
		}
	}
	l.stays(t)
	l.whole(t, "--all")
}

func (l *life) removed(t *testing.T) {
	if said := l.must(t, "dpkg", "--remove", "meshnetd"); !strings.Contains(said, "goes on refusing containers: take its drop-in away") {
		t.Errorf("whoever removes the package is not told that the runtime goes on requiring it:\n%s", said)
	}
	if state := l.show("meshnetd", "ActiveState"); state != "inactive" {
		t.Errorf("after the removal meshnetd is %s", state)
	}
	if l.events(t, "daemon_stopped", "") == 0 {
		t.Error("it did not end by itself")
	}
	l.stays(t)
	l.must(t, "test", "-e", configuration)
	if err := l.first.container(t.Context(), "late"); err == nil {
		t.Error("a container of the mesh starts without meshnetd")
	}
}

func (l *life) purged(t *testing.T) {
	l.must(t, "cp", configuration, configuration+".before")
	l.must(t, "dpkg", "--purge", "meshnetd")
	if left, err := l.run(t.Context(), "sh", "-c", "find / -xdev -name '*meshnetd*' -not -path '/proc/*' -not -path '/etc/containerd/*' -not -path '/var/cache/man/*'"); err != nil || strings.TrimSpace(left) != "" {
		t.Errorf("left behind (%v):\n%s", err, left)
	}
	l.stays(t)
}
