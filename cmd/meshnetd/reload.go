// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/status"
	"github.com/meshnetd/meshnetd/systemd/notify"
)

// reloader reads the configuration again.
type reloader struct {
	file      string
	running   config.Config // of the start
	current   config.Config
	addresses []netip.Addr // of the node, that pods are told
	enforcer  *daemon.Enforcer
	watch     *watch
	log       *slog.Logger

	mu sync.Mutex // one reload at a time
}

// hangups catches SIGHUP from now on; before that, it ends the process.
func hangups() <-chan os.Signal {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return hangup
}

// fileOf returns what a reload reads: the default file, where that was there at the start and no other was named. If
// it is gone then, that is an error.
func fileOf(named string) string {
	if _, err := os.Stat(defaultConfigFile); named == "" && err == nil {
		return defaultConfigFile
	}
	return named
}

// on reloads at each hangup until ctx ends, and sees whether the node has other addresses now and then.
func (r *reloader) on(ctx context.Context, hangup <-chan os.Signal) {
	go func() {
		again := time.NewTicker(r.running.AuditInterval)
		defer again.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				_ = r.reload() // said in the log
			case <-again.C:
				r.readdress()
			}
		}
	}()
}

// readdress tells pods that start from now on the node's addresses, where these are others.
func (r *reloader) readdress() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := addresses(r.current); !slices.Equal(now, r.addresses) {
		r.addresses = now
		r.enforcer.SetPolicy(policyOf(r.current))
	}
}

// reload reads the configuration again. It holds for new pods when this returns; a bad one changes nothing, and
// what is wrong with it is returned.
func (r *reloader) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Before the daemon is ready systemd accepts no reload, and notify.Ready would claim that there is a runtime.
	announced := r.watch.isAnnounced()
	if announced {
		r.tell(notify.Reloading())
	}
	next, err := loadConfig(r.file)
	if err != nil {
		r.log.Error("the configuration is bad and was not taken over; the one before stays in force",
			"event", "config_rejected", "error", err)
		r.watch.refused(err)
	} else {
		r.current, r.addresses = next, addresses(next)
		r.enforcer.SetPolicy(policyOf(next))
		r.log.Info("configuration reloaded: it holds for what starts from now on; the rules of running pods stay", "event", "config_reloaded")
		if keys := needRestart(r.running, next); len(keys) > 0 {
			r.log.Warn("some changes are taken over only when meshnetd is restarted", "event", "config_needs_restart",
				"keys", strings.Join(keys, ", "))
		}
		r.watch.configured(next)
	}
	if announced {
		r.tell(notify.Ready(r.watch.sentence(r.running.NRI.Socket, r.enforcer)))
	}
	return err
}

func (r *reloader) tell(err error) {
	if err != nil {
		r.log.Warn("the service manager cannot be told of the reload", "event", "no_notify", "error", err)
	}
}

// needRestart names the changed keys that are read at start only.
func needRestart(a, b config.Config) []string {
	var keys []string
	for _, k := range []struct {
		name string
		a, b any
	}{
		{"backend", a.Backend, b.Backend}, {"host_netns", a.HostNetNS, b.HostNetNS}, {"cri_socket", a.CRISocket, b.CRISocket},
		{"status_socket", a.StatusSocket, b.StatusSocket}, {"lock_dir", a.LockDir, b.LockDir}, {"nri", a.NRI, b.NRI}, {"kubelet.pods_api", a.PodsAPI, b.PodsAPI}, {"log", a.Log, b.Log}, {"metrics", a.Metrics, b.Metrics},
	} {
		if !reflect.DeepEqual(k.a, k.b) {
			keys = append(keys, k.name)
		}
	}
	return keys
}

func reloadCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the running daemon read its configuration again, and wait for what comes of it",
		Long: "Checks the configuration whole, and then asks the daemon to take it over. Exit 0 when it holds for what starts\n" +
			"from now on, 2 with every problem when it is bad, which changes nothing, 1 when no daemon answers. systemd runs\n" +
			"it for `systemctl reload`, and names the daemon by MAINPID; where nobody listens on status_socket, the daemon gets\n" +
			"a SIGHUP, and its log says what came of it.",
		Example: "  meshnetd reload\n  systemctl reload meshnetd",
		Args:    cobra.NoArgs,
	}
	file := configFlag(c)
	socket := c.Flags().String("socket", "", "`PATH` of the daemon's socket (default: status_socket of the configuration)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(c.Context(), reloadTimeout)
		defer cancel()
		cfg, err := loadConfig(*file)
		if err != nil { // the daemon is to say so, too
			return errors.Join(err, hangup(os.Getenv("MAINPID")))
		}
		path := cmp.Or(*socket, cfg.StatusSocket)
		result, err := status.Reload(ctx, path)
		main := os.Getenv("MAINPID")
		switch {
		case main != "" && (path == "" || errors.Is(err, status.ErrNobody)): // it may listen on the socket of another start
			return hangup(main)
		case err != nil:
			return &exit{exitFailed, err}
		case result.Problem != "":
			return &exit{exitBadConfig, errors.New(result.Problem)}
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "the configuration is taken over; the rules of running pods stay: \"meshnetd verify --all --repair\" is for them")
		return err
	}
	return c
}

const reloadTimeout = 15 * time.Second

// hangup signals the daemon where systemd says which process it is.
func hangup(main string) error {
	if main == "" {
		return nil
	}
	pid, err := mainPID(main)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGHUP)
	}
	if err != nil {
		return &exit{exitFailed, fmt.Errorf("signal the daemon, MAINPID=%s: %w", main, err)}
	}
	return nil
}

// mainPID reads the process id from systemd. Numbers below 1 would signal groups of processes.
func mainPID(text string) (int, error) {
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	if pid <= 1 {
		return 0, errors.New("is not the process of a daemon")
	}
	return pid, nil
}
