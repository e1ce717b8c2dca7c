// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/cri"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/kubelet"
	"github.com/meshnetd/meshnetd/metrics"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
	"github.com/meshnetd/meshnetd/systemd/journal"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: "Connects to the runtime's NRI socket and protects pods until SIGTERM. Rules stay when it ends.\n" +
			"SIGHUP reads the configuration again; a bad one changes nothing.\n\n" +
			"Exit 0 when it was told to end; 1 it cannot work here; 2 wrong command line or configuration.",
		Example: "  meshnetd run --config /etc/meshnetd/meshnetd.toml",
		Args:    cobra.NoArgs,
	}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*file)
		if err != nil {
			return err
		}
		log, queue := newLogger(cfg.Log)
		return serve(c.Context(), *file, cfg, log, queue)
	}
	return c
}

// serve puts the daemon together and runs it until ctx ends. file is where cfg came from, and queue is behind the
// log, or nil.
func serve(ctx context.Context, file string, cfg config.Config, log *slog.Logger, queue *journal.Queue) error {
	hangup := hangups()
	if queue != nil {
		go queue.Run()
		defer func() { _ = queue.Close(flushTimeout) }() // nobody reads what it would say
	}
	memory := boundMemory(os.DirFS("/"))
	isolated, err := netns.Isolate()
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer isolated.Close()
	firewall, err := backend.Find(ctx, backend.Want{Name: cfg.Backend, Plan: explain.Node(cfg).Widest()}, isolated)
	if err != nil {
		return &exit{exitFailed, err}
	}
	tell(log, firewall)
	watch := newWatch(firewall.Chosen())
	host, err := netns.Host(cfg.HostNetNS)
	if err != nil {
		return &exit{exitFailed, err}
	}
	locks, err := netns.MakeLocks(cfg.LockDir)
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer locks.Close()
	var enforcer *daemon.Enforcer
	meter := metrics.New(buildVersion(), texts(outcome.Stages[:]), func() metrics.State { return watch.state(enforcer, queue) })
	record, flush := outcome.Log(log, watch.lineLost)
	enforcer = newEnforcer(cfg, host, locks, firewall, watch.counting(metered(meter, record)))
	enforcer.StopSandbox = func(ctx context.Context, sandboxID string) error {
		return cri.Client{Socket: cmp.Or(cfg.CRISocket, cri.Socket(watch.runtimeName()))}.StopPodSandbox(ctx, sandboxID)
	}
	if source := newSource(cfg.PodsAPI, log); source != nil {
		enforcer.Kubelet, watch.kubelet = source, source
		go source.Run(ctx)
	}
	watch.configured(cfg)
	reload := &reloader{file: fileOf(file), running: cfg, current: cfg, addresses: addresses(cfg), enforcer: enforcer, watch: watch, log: log}
	watch.reload = reload.reload
	go supervise(ctx, cfg.NRI.Socket, watch, enforcer, log)
	pages, read := pages(meter, watch, enforcer), func() status.Status { return watch.status(enforcer) }
	if cfg.StatusSocket != "" {
		go serveStatus(ctx, cfg.StatusSocket, read, pages, log)
	}
	if cfg.Metrics.Status {
		pages = append(pages, status.Remote(read)...)
	}
	if cfg.Metrics.Address != "" {
		go serveMetrics(ctx, cfg.Metrics.Address, pages, log)
	}
	leave, err := locks.Announce()
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer leave()
	reload.on(ctx, hangup)
	go enforcer.Audit(ctx)
	plugin := nriplugin.Plugin{Socket: cfg.NRI.Socket, Name: cfg.NRI.Name, Index: cfg.NRI.Index,
		Pods: pods{enforcer, meter}, Log: log,
		Synced: func(rt nriplugin.Runtime) { meter.SessionChanged(); watch.synced(rt) },
		Waits:  watch.waits,
		Lost:   func(err error) { meter.SessionChanged(); watch.lost(err) }}
	log.Info("ready to connect to the runtime", "event", "daemon_ready", "version", buildVersion(),
		"backend", firewall.Chosen(), "socket", cfg.NRI.Socket, memory)
	if err := plugin.Run(ctx); err != nil {
		return &exit{exitFailed, err}
	}
	flushed := make(chan struct{})
	go func() { flush(); close(flushed) }()
	select {
	case <-flushed:
	case <-time.After(flushTimeout): // nobody reads
	}
	log.Info("stopped; the rules of running pods stay", "event", "daemon_stopped")
	return nil
}

// tell says what writes the rules, and what does not and why.
func tell(log *slog.Logger, b *backend.Backend) {
	for _, t := range b.Trials {
		if t.Err != nil {
			log.Info("cannot write rules on this node", "event", "backend_tried", "backend", t.Backend, "error", t.Err)
		} else {
			log.Info("can write rules on this node", "event", "backend_tried", "backend", t.Backend)
		}
	}
	if why := b.IPv6(); why != nil {
		log.Warn("no IPv6 rules can be written: pods that need them are refused", "event", "no_ipv6", "error", why)
	}
	if why := b.UserNamespaces(); why != nil {
		log.Warn("pods with a user namespace of their own (hostUsers: false) are refused", "event", "no_user_namespaces", "error", why)
	}
}

func newEnforcer(cfg config.Config, host []netns.ID, locks *netns.Locks, firewall kernel.Firewall, record func(outcome.Outcome)) *daemon.Enforcer {
	return daemon.New(policyOf(cfg), kernel.Node{Host: host, Locks: locks, Firewall: firewall}, receipts.In(locks.Directory()), record)
}

func policyOf(cfg config.Config) policy.Policy {
	node := explain.Node(cfg)
	node.Addresses = addresses(cfg)
	return policy.Policy{Node: node, ProxyIdentity: cfg.ProxyIdentity, IdentityExempt: cfg.IdentityExempt, CatchUp: cfg.CatchUp,
		ReplaceOutdated: cfg.ReplaceOutdated, OnDrift: cfg.OnDrift, Required: cfg.Required, Hooks: cfg.Hooks, AuditInterval: cfg.AuditInterval}
}

// newSource returns what asks the kubelet, nil where nobody is to.
func newSource(podsAPI string, log *slog.Logger) *kubelet.Source {
	switch podsAPI {
	case config.PodsAPIOff:
		return nil
	case config.PodsAPIAuto:
		return kubelet.New(kubelet.Socket, false, log)
	}
	return kubelet.New(podsAPI, true, log)
}

// flushTimeout bounds how long the last lines of the log may take when the daemon ends.
const flushTimeout = time.Second

// pods gives the runtime's events to the flow.
type pods struct {
	*daemon.Enforcer
	meter *metrics.Metrics
}

// Enforce returns why a sandbox must not run.
func (p pods) Enforce(ctx context.Context, pod rules.Pod) error {
	return answered(p.meter, p.Enforcer.Enforce(ctx, lifecycle.SandboxStarted, pod), lifecycle.SandboxStarted)
}

// Admit returns why a container must not be created.
func (p pods) Admit(ctx context.Context, pod rules.Pod, c rules.Container) error {
	return answered(p.meter, p.Enforcer.Admit(ctx, pod, c), lifecycle.ContainerCreated)
}

// Validate returns why a container must not be created as it is now.
func (p pods) Validate(ctx context.Context, pod rules.Pod, c rules.Container) error {
	return answered(p.meter, p.Enforcer.Validate(ctx, pod, c), lifecycle.ContainerValidated)
}

// Start returns why a container must not run.
func (p pods) Start(ctx context.Context, pod rules.Pod, container, unheeded string) error {
	return answered(p.meter, p.Enforcer.Start(ctx, pod, container, unheeded), lifecycle.ContainerStarted)
}
