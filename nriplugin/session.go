// SPDX-License-Identifier: Apache-2.0

// Package nriplugin is the only place of meshnetd that knows NRI: the runtime's events come in, pods go
// out, and errors go back. It keeps a session with the runtime for as long as it is told to.
package nriplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/containerd/ttrpc"

	"github.com/meshnetd/meshnetd/rules"
)

// Enforcer is what the plugin asks about pods.
type Enforcer interface {
	// Enforce returns nil for a sandbox that may run, and must return when ctx ends.
	Enforce(ctx context.Context, pod rules.Pod) error
	// Admit returns nil for a container that may be created in the pod, and must return when ctx ends.
	Admit(ctx context.Context, pod rules.Pod, container rules.Container) error
	// Validate reads the kernel, and returns nil for a container that may be created as all plugins left
	// it. It must return when ctx ends.
	Validate(ctx context.Context, pod rules.Pod, container rules.Container) error
	// Outside reports, from memory, whether the pod is none that Start has anything to look at.
	Outside(pod rules.Pod) bool
	// Start reads the kernel when the container's own hooks have run, and returns nil for one that may run. unheeded says why
	// the runtime may not heed an error; "" where it does. It must return when ctx ends.
	Start(ctx context.Context, pod rules.Pod, container, unheeded string) error
	// Deciding returns a pod with those of its labels and annotations that decide about it, in little memory.
	Deciding(pod rules.Pod) rules.Pod
	// Bounded does the same with what a container says.
	Bounded(container rules.Container) rules.Container
	// Synchronize takes over pods that exist already, as Deciding and Bounded left them, and must return when ctx ends.
	Synchronize(ctx context.Context, pods []rules.Pod)
}

// Plugin connects to the runtime and passes pods to the Enforcer.
type Plugin struct {
	Socket string // path of the runtime's NRI socket
	Name   string
	Index  string // two digits
	Pods   Enforcer
	Log    *slog.Logger
	Synced func(Runtime) // called when a session is ready; may be nil
	Waits  func(Waiting) // called when there is no session, with why; may be nil
	Lost   func(error)   // called when a session that was ready ends, with ctx's error where it was stopped; may be nil

	declined string                               // the unknown runtime that refused in the last session to be asked for validation
	said     string                               // what was logged last of why there is no session
	after    func(time.Duration) <-chan time.Time // the clock; nil is the system's
}

const (
	queueNotice = 3 * time.Second       // an idle runtime answers sooner
	lastAnswer  = 50 * time.Millisecond // for answers given but not yet sent when a session is stopped
)

// Run holds sessions with the runtime, one after the other and without end, until ctx ends or the
// runtime turns out to be one that cannot be used.
func (p *Plugin) Run(ctx context.Context) error {
	var pace pace
	for {
		e := p.session(ctx, &pace)
		if e.stage == ready && p.Lost != nil {
			p.Lost(e.err)
		}
		if ctx.Err() != nil {
			return nil
		}
		var unsupported *Unsupported
		if errors.As(e.err, &unsupported) {
			return e.err
		}
		pause := pace.next(e)
		if e.stage == ready {
			p.said = ""
			p.Log.Warn("connection to the runtime lost; containers start without meshnetd until it is back, unless the runtime requires the plugin",
				"event", "nri_lost", "error", e.err)
		} else {
			p.tell(pace.why(e, pause))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.clock(pause):
		}
	}
}

// tell says why there is no session. The log has each cause once, however often it recurs: which error a closed connection
// gives first is chance.
func (p *Plugin) tell(w Waiting) {
	if p.Waits != nil {
		p.Waits(w)
	}
	kind := string(w.Cause)
	if w.Cause == NoSocket || w.Cause == RuntimeGone {
		kind = w.Why.Error()
	}
	if kind == p.said {
		return
	}
	p.said = kind
	if w.Cause == Unsynchronized || w.Cause == RuntimeGone {
		p.Log.Error("no session: the runtime does not get through telling its pods; containers of the mesh wait, or start without meshnetd where "+
			"the runtime does not require it", "event", "nri_not_synchronized", "error", w.Why)
		return
	}
	p.Log.Warn("no session with the runtime yet; retrying", "event", "nri_waiting", "error", w.Why)
}

func (p *Plugin) clock(d time.Duration) <-chan time.Time {
	if p.after != nil {
		return p.after(d)
	}
	return time.After(d)
}

// session connects, serves until the connection is lost or ctx ends, and says how far it came. The stub is made anew:
// after a failure it keeps its dead connection.
func (p *Plugin) session(ctx context.Context, pace *pace) (e ended) {
	began := time.Now()
	defer func() { e.lasted = time.Since(began) }()
	dialled, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
	if err != nil {
		return ended{err: p.explain(err)}
	}
	conn := &watchedConn{Conn: dialled, lost: make(chan struct{})}
	defer conn.Close()
	e.socket, _ = os.Stat(p.Socket) // nil equals no other socket
	if e.err = pace.allow(e.socket); e.err != nil {
		return e
	}
	e.stage = connected
	synced := make(chan Runtime, 1)
	h := &hooks{pods: p.Pods, name: p.Name, index: p.Index, log: p.Log, declined: p.declined}
	p.declined = ""
	h.synced = func(rt Runtime) { synced <- rt }
	closed := make(chan struct{})
	registered := make(chan struct{})
	var once sync.Once
	s, err := stub.New(h, stub.WithPluginName(p.Name), stub.WithPluginIdx(p.Index), stub.WithConnection(conn),
		stub.WithOnClose(func() { once.Do(func() { close(closed) }) }), stub.WithLogger(quiet{p.Log}),
		stub.WithTTRPCOptions([]ttrpc.ClientOpts{register(registered)},
			[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(h.intercept)}),
		// With this, runtimes with NRI 0.12.4 and newer refuse a pod where we fail to answer, and disconnect us as older ones
		// do: otherwise a daemon that hangs would block every pod of the node. Pods of the mesh wait for the required plugin.
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: true, KeepConnected: false}))
	if err != nil {
		e.err = fmt.Errorf("NRI stub: %w", err)
		return e
	}
	h.timeout = s.RequestTimeout
	connect := func(rt Runtime) {
		e.stage = ready
		p.Log.Log(ctx, rt.level(), "connected to the runtime", "event", "nri_connected", "runtime", rt.Name, "version", rt.Version,
			"nri", s.RuntimeNRIVersion(), "request_timeout", s.RequestTimeout(), "tier", rt.Tier, "why", rt.Why,
			"refuse_late", rt.RefuseLate, "validates", rt.Validates, "tells_user", rt.TellsUser, "limits", strings.Join(rt.Limits, " "))
		if p.Synced != nil {
			p.Synced(rt)
		}
	}
	lose := func(err error) ended {
		select {
		case rt := <-synced: // and lost in the same moment
			connect(rt)
		default:
		}
		switch {
		case e.stage != ready:
			if e.err = h.unusable(); e.err == nil {
				p.fail(&e, h, err)
			}
		case isGone(err):
			e.err = errors.New("connection closed")
		default:
			e.err = err
		}
		return e
	}
	if err := p.start(ctx, s, h, conn, registered); err != nil {
		return lose(err)
	}
	for {
		select {
		case rt := <-synced:
			connect(rt)
		case <-closed:
			return lose(errClosed)
		case <-ctx.Done():
			h.drain()
			time.Sleep(lastAnswer) // the stub does not tell whether an answer was sent
			s.Stop()
			e.err = ctx.Err()
			return e
		}
	}
}

// fail says why there was no session. An unknown runtime that may have declined validation is not asked for it in the next
// session only, since the connection may have ended for another reason.
func (p *Plugin) fail(e *ended, h *hooks, err error) {
	gone := isGone(err)
	if p.declined = h.declines(gone); p.declined != "" {
		err = fmt.Errorf("%w, and may not know validation: it is tried without", err)
	} else if gone && h.untold() {
		e.stage, err = configured, errUnsynchronized
	}
	e.err = fmt.Errorf("register with the runtime at %s: %w", p.Socket, err)
}

// isGone reports whether the runtime closed the connection.
func isGone(err error) bool { return errors.Is(err, errClosed) || errors.Is(err, ttrpc.ErrClosed) }

// start registers, and waits as long as the connection is open: the runtime takes one plugin after the other, and one that
// reconnects is last again. While the stub waits for the runtime's Configure it does not notice that the connection is
// gone, so that call is then made here.
func (p *Plugin) start(ctx context.Context, s stub.Stub, h *hooks, conn *watchedConn, registered <-chan struct{}) error {
	started := make(chan error, 1)
	// The stub cancels its handlers with this context, but they are to finish when we are told to stop.
	go func() { started <- s.Start(context.WithoutCancel(ctx)) }()
	notice := p.clock(queueNotice)
	var why error
	for why == nil {
		select {
		case err := <-started:
			return err
		case <-notice:
			p.tell(Waiting{Queue, errQueue})
		case <-conn.lost:
			why = errClosed
		case <-ctx.Done():
			why = ctx.Err()
		}
	}
	configured := h.abort()
	_ = conn.Close()
	var err error
	select {
	case err = <-started: // not registered yet, it fails by itself without a connection
	case <-registered:
		// It waits for one Configure, which will not come any more.
		if service, ok := s.(api.PluginService); ok && !configured {
			_, _ = service.Configure(context.WithoutCancel(ctx), &api.ConfigureRequest{})
		}
		err = <-started
	}
	if err == nil { // it had just become ready
		s.Stop()
	}
	return why
}

// watchedConn tells when the connection is lost, which the stub does not while it registers.
type watchedConn struct {
	net.Conn
	lost chan struct{}
	once sync.Once
}

// Read closes lost with the first error.
func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.once.Do(func() { close(c.lost) })
	}
	return n, err
}

// register lifts the stub's own time limit from its only request, and closes a channel when the runtime has answered it.
func register(registered chan<- struct{}) ttrpc.ClientOpts {
	var once sync.Once
	return ttrpc.WithUnaryClientInterceptor(func(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response,
		_ *ttrpc.UnaryClientInfo, call ttrpc.Invoker) error {
		req.TimeoutNano = 0
		err := call(context.WithoutCancel(ctx), req, resp)
		if err == nil && resp.GetStatus().GetCode() == 0 {
			once.Do(func() { close(registered) })
		}
		return err
	})
}

// explain says what a failed connection means to the one who runs the node.
func (p *Plugin) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no NRI socket at %s: is the runtime running, and NRI on (containerd 1.7: disable = false in "+
			`[plugins."io.containerd.nri.v1.nri"]; CRI-O: enable_nri = true), and nri.socket right? %w`, p.Socket, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the NRI socket at %s is not open to us: run as root, with SELinux as spc_t: %w", p.Socket, err)
	}
	return fmt.Errorf("NRI socket %s: is the runtime running? %w", p.Socket, err)
}

// quiet logs the stub's messages at debug level: what matters of them is logged by this package.
type quiet struct{ log *slog.Logger }

func (q quiet) Debugf(ctx context.Context, format string, args ...any) { q.debug(ctx, format, args) }
func (q quiet) Infof(ctx context.Context, format string, args ...any)  { q.debug(ctx, format, args) }
func (q quiet) Warnf(ctx context.Context, format string, args ...any)  { q.debug(ctx, format, args) }
func (q quiet) Errorf(ctx context.Context, format string, args ...any) { q.debug(ctx, format, args) }

func (q quiet) debug(ctx context.Context, format string, args []any) {
	if q.log.Enabled(ctx, slog.LevelDebug) {
		q.log.Debug(fmt.Sprintf(format, args...), "event", "nri_stub")
	}
}
