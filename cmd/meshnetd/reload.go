// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
)

// reloadOnHangup reads the configuration again at each SIGHUP until ctx ends. A bad one changes nothing.
func reloadOnHangup(ctx context.Context, file string, running config.Config, enforcer *daemon.Enforcer, log *slog.Logger) {
	if _, err := os.Stat(defaultConfigFile); file == "" && err == nil {
		file = defaultConfigFile // it was read at the start: if it is gone at a reload, that is an error
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			next, err := loadConfig(file)
			if err != nil {
				log.Error("the configuration is bad and was not taken over; the one before stays in force",
					"event", "config_rejected", "error", err)
				continue
			}
			enforcer.SetPolicy(policy(next))
			log.Info("configuration reloaded: it holds for what starts from now on; the rules of running pods stay", "event", "config_reloaded")
			if keys := needRestart(running, next); len(keys) > 0 {
				log.Warn("some changes are taken over only when meshnetd is restarted", "event", "config_needs_restart",
					"keys", strings.Join(keys, ", "))
			}
		}
	}()
}

// needRestart names the changed keys that are read at start only.
func needRestart(a, b config.Config) []string {
	var keys []string
	for _, k := range []struct {
		name string
		a, b any
	}{
		{"backend", a.Backend, b.Backend}, {"host_netns", a.HostNetNS, b.HostNetNS}, {"cri_socket", a.CRISocket, b.CRISocket},
		{"status_socket", a.StatusSocket, b.StatusSocket}, {"nri", a.NRI, b.NRI}, {"log", a.Log, b.Log},
	} {
		if !reflect.DeepEqual(k.a, k.b) {
			keys = append(keys, k.name)
		}
	}
	return keys
}
