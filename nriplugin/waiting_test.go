// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// sockets returns the files of runtimes that were started one after the other.
func sockets(t *testing.T, n int) (all []fs.FileInfo) {
	t.Helper()
	for range n {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info)
	}
	return all
}

func TestPace(t *testing.T) {
	s := sockets(t, 4)
	const soon, now = -1, 0
	nobody := ended{stage: away}
	crash := func(socket fs.FileInfo) ended { return ended{stage: configured, socket: socket} }
	for name, steps := range map[string][]struct {
		e    ended
		want time.Duration
	}{
		"nobody there":                           {{nobody, soon}, {nobody, soon}, {nobody, soon}},
		"closed, and alive":                      {{crash(s[0]), soon}, {crash(s[0]), soon}, {crash(s[0]), soon}, {crash(s[0]), soon}},
		"gone once":                              {{crash(s[0]), soon}, {nobody, soon}, {nobody, soon}, {ended{stage: connected, socket: s[1]}, soon}},
		"gone twice, and back":                   {{crash(s[0]), soon}, {nobody, soon}, {crash(s[1]), soon}, {nobody, soon}, {nobody, soon}, {ended{stage: away, socket: s[2]}, time.Minute}},
		"gone and back at once":                  {{crash(s[0]), soon}, {ended{stage: away, socket: s[1]}, soon}, {crash(s[1]), soon}, {ended{stage: away, socket: s[2]}, time.Minute}},
		"gone once more after the rest":          {{crash(s[0]), soon}, {nobody, soon}, {crash(s[1]), soon}, {ended{stage: away, socket: s[2]}, time.Minute}, {crash(s[2]), soon}, {ended{stage: away, socket: s[3]}, 2 * time.Minute}},
		"gone, then ready, then gone":            {{crash(s[0]), soon}, {nobody, soon}, {ended{stage: ready, socket: s[1], lasted: time.Hour}, now}, {crash(s[1]), soon}, {nobody, soon}, {nobody, soon}},
		"gone, then closed and alive, then gone": {{crash(s[0]), soon}, {nobody, soon}, {crash(s[1]), soon}, {crash(s[1]), soon}, {nobody, soon}, {crash(s[2]), soon}},
		"ready for long":                         {{ended{stage: ready, socket: s[0], lasted: time.Hour}, now}, {nobody, soon}},
		"thrown out at once":                     {{ended{stage: ready, socket: s[0]}, soon}, {ended{stage: ready, socket: s[0]}, soon}},
	} {
		t.Run(name, func(t *testing.T) {
			var p pace
			for i, step := range steps {
				if err := p.allow(step.e.socket); step.e.socket != nil && (err != nil) != (step.e.stage == away) {
					t.Fatalf("step %d: allowed: %v", i, err)
				}
				got := p.next(step.e)
				if step.want == soon && (got < firstPause/2 || got > longestPause) || step.want != soon && got != step.want {
					t.Fatalf("step %d: a pause of %s", i, got)
				}
			}
		})
	}
}

func TestRestHasAnEnd(t *testing.T) {
	s := sockets(t, 1)
	p := pace{gone: 1000, suspect: s[0]}
	if rest := p.next(ended{stage: away}); rest > longestPause || p.rest != longestRest {
		t.Errorf("a pause of %s, and a rest of %s", rest, p.rest)
	}
}

// clock is one that stands until it is told.
type clock struct {
	asked chan time.Duration
	fire  chan time.Time
}

// stopped gives a plugin such a clock. The notice of the queue never comes.
func stopped(c *clock) func(*Plugin) {
	c.asked, c.fire = make(chan time.Duration, 1000), make(chan time.Time)
	return func(p *Plugin) {
		p.after = func(d time.Duration) <-chan time.Time {
			if d == queueNotice {
				return nil
			}
			c.asked <- d
			return c.fire
		}
	}
}

// pause returns the pause that the plugin makes now, and ends it.
func (c *clock) pause(t *testing.T) time.Duration {
	t.Helper()
	d := receive(t, "a pause", c.asked)
	c.fire <- time.Now()
	return d
}

// A runtime that ends while it tells its pods, as containerd does where four of them do not fit into a message, ends
// again with each session. It is given minutes, and not before it has ended twice.
func TestRuntimeGone(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	var c clock
	p := run(t, socket, &pods{}, stopped(&c))
	for i, rest := range []time.Duration{0, 0, time.Minute} { // of the runtime that is back
		if d := receive(t, "a pause", c.asked); d > longestPause {
			t.Errorf("runtime %d: a pause of %s while nobody was there", i, d)
		}
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.fire <- time.Now()
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if rest > 0 {
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("runtime %d: it began to register with one that is to be left alone", i)
			}
			if d := c.pause(t); d != rest {
				t.Errorf("runtime %d: it was left alone for %s, want %s", i, d, rest)
			}
			if conn, err = listener.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		raw := &rawRuntime{}
		end := raw.serve(t, conn)
		receive(t, "the registration", raw.registered)
		if _, err := raw.plugin.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"}); err != nil {
			t.Fatal(err)
		}
		_ = listener.Close()
		end()
		if d := c.pause(t); d > longestPause {
			t.Errorf("runtime %d: a pause of %s before it was known that it is gone", i, d)
		}
	}

	// It is back for good.
	receive(t, "a pause", c.asked)
	conns := listen(t, socket)
	c.fire <- time.Now()
	receive(t, "a look at the socket", conns)
	if d := receive(t, "the rest", c.asked); d != 2*time.Minute {
		t.Errorf("it is left alone for %s, want 2m", d)
	}
	var last Waiting
	for len(p.waits) > 0 {
		last = <-p.waits
	}
	if last.Cause != RuntimeGone || !strings.Contains(last.Why.Error(), "3 times") || !strings.Contains(last.Why.Error(), "next try is in 2m0s") {
		t.Errorf("it waits: %s, %v", last.Cause, last.Why)
	}
	logged := p.log.of("nri_not_synchronized")
	if len(logged) == 0 || logged[len(logged)-1]["level"] != "ERROR" || !strings.Contains(logged[len(logged)-1]["error"], "megabytes of environment") {
		t.Errorf("logged %v", logged)
	}
	c.fire <- time.Now()
	raw := &rawRuntime{}
	raw.serve(t, receive(t, "another connection", conns))
	raw.accept(t, "containerd", "v2.4.2")
	receive(t, "Synced", p.synced)
}

// NRI's own adaptation cannot tell twelve large containers, whoever connects, and closes the connection.
func TestTooLargeToSynchronize(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	var sandboxes []*api.PodSandbox
	var containers []*api.Container
	for _, id := range strings.Split("abcdefghijkl", "") {
		pod := meshed(id)
		c := app(pod)
		c.Env = []string{"A=" + strings.Repeat("x", 1_200_000)}
		sandboxes, containers = append(sandboxes, pod), append(containers, c)
	}
	startRuntimeWith(t, socket, "containerd", "v2.4.2", sandboxes, containers)
	enforcer := &pods{}
	p := run(t, socket, enforcer)
	for range 3 { // and goes on trying
		if w := receive(t, "why it waits", p.waits); w.Cause != Unsynchronized || !strings.Contains(w.Why.Error(), "4 MiB") {
			t.Errorf("it waits: %s, %v", w.Cause, w.Why)
		}
	}
	if logged := p.log.of("nri_not_synchronized"); len(logged) != 1 {
		t.Errorf("logged %v", logged)
	}
	if len(p.synced) > 0 || len(enforcer.synced) > 0 {
		t.Error("it was synchronized all the same")
	}
}

// Behind others that connect and say nothing meshnetd comes to its turn: it keeps its place in the queue, for longer
// than the stub would.
func TestBehindSilentNeighbours(t *testing.T) {
	noLeaks(t)
	const patient = 3 * time.Second // of the runtime; two of them are more than the stub's own five seconds
	adaptation.SetPluginRegistrationTimeout(patient)
	t.Cleanup(func() { adaptation.SetPluginRegistrationTimeout(adaptation.DefaultPluginRegistrationTimeout) })
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2", meshed("old"))
	for range 2 {
		first, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		again := make(chan net.Conn, 1)
		go func() { // thrown out, it comes again
			_, _ = first.Read(make([]byte, 1))
			_ = first.Close()
			second, err := net.Dial("unix", socket)
			if err != nil {
				t.Error(err)
			}
			again <- second
		}()
		defer func() {
			if second := <-again; second != nil {
				_ = second.Close()
			}
		}()
	}
	notice := make(chan time.Time)
	p := run(t, socket, &pods{}, func(p *Plugin) {
		p.after = func(d time.Duration) <-chan time.Time {
			if d != queueNotice {
				t.Errorf("it gave its place up, and pauses for %s", d)
				return time.After(d)
			}
			return notice
		}
	})
	notice <- time.Now()
	if w := receive(t, "why it waits", p.waits); w.Cause != Queue || !errors.Is(w.Why, errQueue) {
		t.Errorf("it waits: %s, %v", w.Cause, w.Why)
	}
	rt.connected(t)
	receive(t, "Synced", p.synced)
	if logged := p.log.of("nri_waiting"); len(logged) != 1 || !strings.Contains(logged[0]["error"], "waiting in the runtime's queue") {
		t.Errorf("logged %v", logged)
	}
}
