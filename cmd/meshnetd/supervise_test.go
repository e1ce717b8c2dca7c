// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/metrics"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
)

// systemd is a stand-in for the service manager, with a short watchdog.
type systemd struct{ *net.UnixConn }

func listenAsSystemd(t *testing.T, watchdog time.Duration) systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return systemd{conn}
}

// next returns what is told next; false when nothing is for so long.
func (s systemd) next(t *testing.T, limit time.Duration) (string, bool) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 4096)
	n, err := s.Read(text)
	return string(text[:n]), err == nil
}

// until waits for a message that begins so and has this in it, and returns those before it.
func (s systemd) until(t *testing.T, assignment, part string) (before []string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, ok := s.next(t, time.Until(deadline))
		if !ok {
			t.Fatalf("systemd is never told %q with %q, but %q", assignment, part, before)
		}
		if strings.HasPrefix(text, assignment) && strings.Contains(text, part) {
			return before
		}
		before = append(before, text)
	}
}

func (s systemd) none(t *testing.T, messages []string, assignment string) {
	t.Helper()
	for _, m := range messages {
		if strings.HasPrefix(m, assignment) {
			t.Errorf("systemd was told %q, which is not so", m)
		}
	}
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// supervised runs supervise for a daemon without pods until the test ends.
func supervised(t *testing.T, s systemd) (*watch, context.CancelFunc) {
	t.Helper()
	cfg := config.Default()
	w := newWatch("iptables")
	w.configured(cfg)
	e := daemon.New(policyOf(cfg), nil, "", func(outcome.Outcome) {})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { supervise(ctx, "/run/nri.sock", w, e, quiet); close(done) }()
	t.Cleanup(func() {
		cancel()
		_ = s.Close() // what it is telling in this moment, nobody reads any more
		<-done
	})
	return w, cancel
}

var someRuntime = nriplugin.Runtime{Name: "containerd", Version: "v2.4.2", Tier: nriplugin.Guaranteed}

func TestSuperviseTellsWhatHappens(t *testing.T) {
	s := listenAsSystemd(t, 3*time.Second)
	w, stop := supervised(t, s)
	s.until(t, "WATCHDOG=1", "STATUS=waiting for the runtime's NRI socket /run/nri.sock")
	s.none(t, s.until(t, "WATCHDOG=1", "waiting"), "READY=1") // twice, so that the first was not READY's
	w.synced(someRuntime)
	s.until(t, "READY=1", "STATUS=protecting 0 pods, containerd v2.4.2, tier guaranteed")
	w.refused(errors.New("meshnetd.toml:3: no_such_key: unknown key"))
	s.none(t, s.until(t, "WATCHDOG=1", "bad and not in force: meshnetd.toml:3: no_such_key"), "READY=1")
	w.lost(errors.New("closed"))
	s.until(t, "WATCHDOG=1", "STATUS=no session with containerd v2.4.2 since ")
	w.configured(config.Default())
	w.synced(someRuntime)
	for range 2 { // it is not ready a second time
		s.none(t, s.until(t, "WATCHDOG=1", "STATUS=protecting 0 pods, containerd v2.4.2, tier guaranteed"), "READY=1")
	}
	stop()
	s.until(t, "STOPPING=1", "the rules of running pods stay")
}

func TestSuperviseStopsAtALock(t *testing.T) {
	s := listenAsSystemd(t, 300*time.Millisecond)
	w, _ := supervised(t, s)
	s.until(t, "WATCHDOG=1", "")
	w.mu.Lock()
	defer w.mu.Unlock()
	for range 3 { // what was under way, and no more
		if _, ok := s.next(t, time.Second); !ok {
			return
		}
	}
	t.Error("the watchdog is answered while a lock is held for good")
}

func TestSuperviseWithoutAuditor(t *testing.T) {
	s := listenAsSystemd(t, 300*time.Millisecond)
	w, _ := supervised(t, s)
	w.mu.Lock()
	w.started = time.Now().Add(-time.Hour)
	w.mu.Unlock()
	s.until(t, "STATUS=", "nothing was heard of the auditor for 1h0m0s")
	if text, _ := s.next(t, 10*time.Second); strings.HasPrefix(text, "WATCHDOG=1") {
		t.Errorf("the watchdog is answered: %q", text)
	}
}

func TestAlive(t *testing.T) {
	cfg := config.Default()
	cfg.AuditInterval = 24 * time.Hour
	w := newWatch("iptables")
	w.configured(cfg)
	e := daemon.New(policyOf(cfg), nil, "", func(outcome.Outcome) {})
	if err := w.alive(e, w.started.Add(auditSilence)); err != nil {
		t.Errorf("before its first step can be due: %v", err)
	}
	if err := w.alive(e, w.started.Add(auditSilence+time.Second)); err == nil {
		t.Error("the auditor never begins, and nobody minds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go e.Audit(ctx)
	for deadline := time.Now().Add(10 * time.Second); ; {
		if heard, ok := e.Auditor.Heard(); ok {
			if err := w.alive(e, heard.Add(auditSilence)); err != nil {
				t.Errorf("in the pause of a day: %v", err)
			}
			if err := w.alive(e, heard.Add(auditSilence+time.Second)); err == nil {
				t.Error("nothing is heard in the pause of a day, and nobody minds")
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is heard of the auditor")
		}
	}
}

// A pod that cannot be taken over yet keeps the daemon from being ready, but not for ever.
func TestReadyWithAPendingPod(t *testing.T) {
	w := newWatch("iptables")
	e := daemon.New(policyOf(config.Default()), nil, "", func(outcome.Outcome) {})
	if err := w.ready(e); err == nil || w.nowReady(e) {
		t.Errorf("without a session: %v", err)
	}
	file := filepath.Join(t.TempDir(), "no-namespace")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e.Synchronize(t.Context(), []rules.Pod{{SandboxID: "a", Namespace: "shop", Name: "cart", NetNS: file,
		Annotations: map[string]string{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`}}})
	w.synced(someRuntime)
	if err := w.ready(e); err == nil || !strings.Contains(err.Error(), "pods that were there") {
		t.Errorf("with a pod that is not taken over: %v", err)
	}
	if w.nowReady(e) || w.status(e).Synchronized {
		t.Error("it counts as ready")
	}
	w.since = w.since.Add(-takeoverPatience)
	if err := w.ready(e); err != nil || !w.nowReady(e) {
		t.Errorf("the kubelet waits for ever: %v", err)
	}
	w.announce(true)
	if w.nowReady(e) {
		t.Error("it becomes ready twice")
	}
	w.announce(false) // systemd could not be told
	e.Synchronize(t.Context(), nil)
	if err := w.ready(e); err != nil || !w.nowReady(e) || !w.status(e).Synchronized {
		t.Errorf("without pods: %v", err)
	}
}

func TestReload(t *testing.T) {
	s := listenAsSystemd(t, time.Hour)
	file := filepath.Join(t.TempDir(), "meshnetd.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config.Default()
	w := newWatch("iptables")
	w.configured(cfg)
	e := daemon.New(policyOf(cfg), nil, "", func(outcome.Outcome) {})
	var said strings.Builder
	r := &reloader{file: file, running: cfg, enforcer: e, watch: w, log: slog.New(slog.NewTextHandler(&said, nil))}

	write("audit_interval = \"2s\"\n")
	if err := r.reload(); err != nil || w.auditInterval != 2*time.Second || !strings.Contains(said.String(), "event=config_reloaded") {
		t.Errorf("a good one: %v, interval %s, said %s", err, w.auditInterval, &said)
	}
	w.announced = true
	write("audit_interval = \"3s\"\nno_such_key = 1\n")
	if err := r.reload(); err == nil || w.auditInterval != 2*time.Second || w.rejected == nil || !strings.Contains(said.String(), "event=config_rejected") {
		t.Errorf("a bad one: %v, interval %s, said %s", err, w.auditInterval, &said)
	}
	// The first reload was before systemd knew of a ready daemon, and must not make it one.
	if text, _ := s.next(t, 10*time.Second); !strings.HasPrefix(text, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("told %q", text)
	}
	if text, _ := s.next(t, 10*time.Second); !strings.HasPrefix(text, "READY=1\nSTATUS=waiting") || !strings.Contains(text, "no_such_key") {
		t.Errorf("told %q", text)
	}
	write("nri.name = \"other\"\n")
	if err := r.reload(); err != nil || w.rejected != nil || !strings.Contains(said.String(), "event=config_needs_restart keys=nri") {
		t.Errorf("one that needs a restart: %v, %v, said %s", err, w.rejected, &said)
	}
}

func TestReloadCommand(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.toml"), filepath.Join(dir, "bad.toml")
	none, hung := filepath.Join(dir, "none.toml"), filepath.Join(dir, "hung.toml")
	silent, err := net.Listen("unix", filepath.Join(dir, "hung")) // it takes a connection and says nothing
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for conn, err := silent.Accept(); err == nil; conn, err = silent.Accept() {
			_ = conn.Close()
		}
	}()
	defer func() { _ = silent.Close() }()
	for file, text := range map[string]string{good: "status_socket = \"" + dir + "/nobody\"\n", bad: "no_such_key = 1\n",
		none: "status_socket = \"\"\n", hung: "status_socket = \"" + dir + "/hung\"\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	self := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		file, mainPID string
		code          int
		signalled     bool
	}{
		"bad":                   {bad, "", exitBadConfig, false},
		"bad, under systemd":    {bad, self, exitBadConfig, true},
		"nobody":                {good, "", exitFailed, false},
		"nobody, under systemd": {good, self, 0, true},
		"none, under systemd":   {none, self, 0, true},
		"it does not answer":    {hung, self, exitFailed, false},
		"nonsense by systemd":   {good, "all", exitFailed, false},
	} {
		t.Setenv("MAINPID", c.mainPID)
		command := root()
		command.SetArgs([]string{"reload", "--config", c.file})
		command.SetOut(io.Discard)
		err := command.ExecuteContext(t.Context())
		code := 0
		if coded := (*exit)(nil); errors.As(err, &coded) {
			code = coded.code
		}
		if code != c.code || (err != nil) != (c.code != 0) {
			t.Errorf("%s: exit code %d (%v), want %d", name, code, err, c.code)
		}
		if !c.signalled {
			continue
		}
		select {
		case <-hangups:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the daemon is not signalled", name)
		}
	}
}

// -1 would be every process there is, so that this is not tried.
func TestMainPID(t *testing.T) {
	for text, want := range map[string]int{"2": 2, "4194304": 4194304, "1": 0, "0": 0, "-1": 0, "-7": 0, "": 0, "all": 0, "2 3": 0} {
		if pid, err := mainPID(text); pid != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %d and %v, want %d", text, pid, err, want)
		}
	}
}

// What the session is worth is the same wherever it is told, when the runtime's validator turns out to be off too.
func TestOneTierIsToldEverywhere(t *testing.T) {
	locks, err := netns.MakeLocks(filepath.Join(t.TempDir(), "locks"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(locks.Close)
	w := newWatch("iptables")
	e := daemon.New(policyOf(config.Default()), kernel.Node{Locks: locks, Firewall: nftables.New(nftables.IPTables)}, receipts.In(locks.Directory()), func(outcome.Outcome) {})
	m := metrics.New("v1", texts(outcome.Stages[:]), func() metrics.State { return w.state(e, nil) })
	w.synced(someRuntime)
	inMesh := rules.Pod{SandboxID: "web", Namespace: "shop", Name: "web", NetNS: nstest.New(t).Path, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Annotations: map[string]string{"sidecar.istio.io/status": "{}"}}
	for validator, want := range map[bool]nriplugin.Tier{true: nriplugin.Guaranteed, false: nriplugin.BestEffort} {
		if o := e.Validate(t.Context(), inMesh, rules.Container{Name: "app", Review: &rules.Review{Validator: validator}}); o.Result != lifecycle.Protected {
			t.Fatal(o.Result, o.Error())
		}
		metered, _ := page(t, m, w, e, "/metrics")
		for where, said := range map[string]string{"systemd": w.sentence("", e), "status": w.status(e).Runtime.Tier, "ready": session(w.status(e)),
			"metrics": strings.Join(samples(metered, "meshnetd_runtime_info"), "")} {
			if !strings.Contains(said, string(want)) || want != nriplugin.Guaranteed && strings.Contains(said, string(nriplugin.Guaranteed)) {
				t.Errorf("%s, validator %t: want %q in\n%s", where, validator, want, said)
			}
		}
	}
}
