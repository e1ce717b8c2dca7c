// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long:  "Connects to the runtime's NRI socket and protects pods until SIGTERM. Rules stay when it ends.",
		Args:  cobra.NoArgs,
	}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*file)
		if err != nil {
			return err
		}
		return serve(c.Context(), cfg, newLogger(cfg.Log))
	}
	return c
}

// serve puts the daemon together and runs it until ctx ends.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	isolated, err := netns.Isolate()
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer isolated.Close()
	firewall, err := xtables.Find(ctx, cfg.Backend, isolated)
	if err != nil {
		return &exit{exitFailed, err}
	}
	if why := firewall.IPv6(); why != nil {
		log.Warn("ip6tables cannot be used: pods that need IPv6 rules are refused", "event", "no_ipv6", "error", why)
	}
	record, flush := daemon.Log(log, firewall.Name())
	enforcer, err := newEnforcer(cfg, firewall, record)
	if err != nil {
		return &exit{exitFailed, err}
	}
	plugin := nriplugin.Plugin{Socket: cfg.NRI.Socket, Name: cfg.NRI.Name, Index: cfg.NRI.Index,
		Pods: pods{enforcer}, Log: log}
	log.Info("ready to connect to the runtime", "event", "daemon_ready", "version", buildVersion(),
		"backend", firewall.Name(), "socket", cfg.NRI.Socket)
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

func newEnforcer(cfg config.Config, firewall daemon.Firewall, record func(daemon.Outcome)) (*daemon.Enforcer, error) {
	host, err := netns.Host(cfg.HostNetNS)
	if err != nil {
		return nil, err
	}
	return &daemon.Enforcer{Node: node(cfg), Host: host, Firewall: firewall, Record: record}, nil
}

// flushTimeout bounds how long the last lines of the log may take when the daemon ends.
const flushTimeout = time.Second

// pods gives the runtime's events to the flow.
type pods struct{ *daemon.Enforcer }

// Enforce returns why a pod must not run.
func (p pods) Enforce(ctx context.Context, pod rules.Pod) error {
	return p.Enforcer.Enforce(ctx, daemon.SandboxStarted, pod).Error()
}
