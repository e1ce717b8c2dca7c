// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// asking is how a command reaches the daemon.
type asking struct {
	config, socket *string
	warn           func(error)
}

func askingFlags(c *cobra.Command) asking {
	said := false
	return asking{
		config: configFlag(c),
		socket: c.Flags().String("socket", "", "`PATH` of the daemon's socket (default: status_socket of the configuration)"),
		warn: func(err error) {
			if !said {
				fmt.Fprintf(c.ErrOrStderr(), "meshnetd: %v\nmeshnetd: the running daemon leaves a bad configuration alone, and is asked at its usual socket (--socket names another)\n", err)
			}
			said = true
		},
	}
}

// read returns the configuration, or the built-in values where it is bad: a typing error in a file must not keep the
// daemon's answer from somebody whose pod cannot talk.
func (a asking) read() (config.Config, error) {
	cfg, err := loadConfig(*a.config)
	var bad config.Problems
	if errors.As(err, &bad) {
		if *a.socket == "" {
			a.warn(err)
		}
		return config.Default(), nil
	}
	return cfg, err
}

// manifest reads a pod that is asked about without a daemon, and the configuration that decides about it.
func (a asking) manifest(c *cobra.Command, file string) (cfg config.Config, pod rules.Pod, err error) {
	if *a.socket != "" {
		return cfg, pod, errors.New("--socket is the daemon's, and -f goes without one")
	}
	if cfg, err = loadConfig(*a.config); err == nil {
		pod, err = readPod(c, file)
	}
	return cfg, pod, err
}

// path returns where the daemon is to be asked.
func (a asking) path() (string, error) {
	cfg, err := a.read()
	if err != nil {
		return "", err
	}
	return cmp.Or(*a.socket, cfg.StatusSocket), nil
}

// status asks for all there is.
func (a asking) status(ctx context.Context) (socket string, s status.Status, err error) {
	socket, err = a.path()
	if err != nil {
		return "", s, err
	}
	if s, err = status.Read(ctx, socket); err != nil {
		return "", s, &exit{exitFailed, err}
	}
	return socket, s, nil
}

// sandbox asks for one sandbox by its pod's name.
func (a asking) sandbox(ctx context.Context, name string) (socket string, sb status.Sandbox, err error) {
	socket, s, err := a.status(ctx)
	if err != nil {
		return "", sb, err
	}
	if sb, err = choose(s.Sandboxes, name); err != nil {
		return "", sb, &exit{exitFailed, err}
	}
	return socket, sb, nil
}

// choose finds the sandbox of a pod, or the one whose id begins so.
func choose(all []status.Sandbox, name string) (status.Sandbox, error) {
	namespace, pod, named := strings.Cut(name, "/")
	if name == "" {
		return status.Sandbox{}, errors.New("the name is empty: a pod is named NAMESPACE/POD (`meshnetd status` lists them)")
	}
	var found []status.Sandbox
	for _, sb := range all {
		if named && sb.Namespace == namespace && sb.Name == pod || !named && strings.HasPrefix(sb.ID, name) {
			found = append(found, sb)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var each []string
		for _, sb := range found {
			each = append(each, fmt.Sprintf("%s (%s/%s, %s)", sb.ID, sb.Namespace, sb.Name, sb.State))
		}
		return status.Sandbox{}, fmt.Errorf("%s is not one sandbox but %d; name one by its id: %s", name, len(found), strings.Join(each, ", "))
	case !named:
		return status.Sandbox{}, fmt.Errorf("no sandbox of the mesh on this node has an id that begins with %q; a pod is named NAMESPACE/POD "+
			"(`meshnetd status` lists them)%s", name, meant(all, name))
	}
	return status.Sandbox{}, fmt.Errorf("no pod %s of the mesh runs on this node (`meshnetd status` lists those that do)%s; a pod outside the mesh has no rules, "+
		"and `meshnetd explain -f POD` says why it is outside", name, meant(all, name))
}

const mostMeant = 3 // names that are offered

// meant offers the names nearest to an unknown one, or nothing.
func meant(all []status.Sandbox, name string) string {
	distances := map[string]int{}
	for _, sb := range all {
		whole := sb.Namespace + "/" + sb.Name
		most := len(name)/3 + 1
		d := min(rules.Distance(name, whole, most), rules.Distance(name, sb.Name, most))
		if last := name[strings.LastIndex(name, "/")+1:]; last != "" && (last == sb.Name || strings.HasPrefix(sb.Name, last+"-")) {
			d = 0 // the same in another namespace, or one of a deployment
		}
		if d < most {
			distances[whole] = d
		}
	}
	var names []string
	for whole := range distances {
		names = append(names, whole)
	}
	if len(names) == 0 {
		return ""
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(distances[a], distances[b]), cmp.Compare(a, b)) })
	return ": did you mean " + strings.Join(names[:min(len(names), mostMeant)], ", ") + "?"
}
