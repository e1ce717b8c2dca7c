// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/podsapi"
)

// memory measures what a meshnetd keeps for a full node: one that protected the pods, and one that was
// started when they were there.
func (b *bench) memory() error {
	if err := b.runtime(); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "\n%-36s %12s %12s %12s\n", "memory of meshnetd run", "RSS", "of it heap", "at most")
	var pods []*lab.Pod
	err := b.meeting(true, dualStackConfig, func(daemon *lab.Daemon) (err error) {
		if err := b.resident("without a pod", daemon); err != nil {
			return err
		}
		const atOnce = 8
		if pods, _, err = b.crowd(many, atOnce); err != nil {
			return err
		}
		if err := protected(b.ctx, daemon, pods); err != nil {
			return err
		}
		return b.resident(fmt.Sprintf("when it protected %d pods", many), daemon)
	})
	if err == nil {
		err = b.takeover(pods, "", fmt.Sprintf("when it took %d pods over", many))
	}
	if err == nil {
		err = b.toldByKubelet(pods)
	}
	b.notef("goal: 30 MB with %d pods", many)
	return errors.Join(err, b.disperse(pods))
}

// takeover measures a meshnetd that is started when the pods are there.
func (b *bench) takeover(pods []*lab.Pod, config, when string) error {
	return b.meeting(true, dualStackConfig+config, func(daemon *lab.Daemon) error {
		if err := protected(b.ctx, daemon, pods); err != nil {
			return err
		}
		if config != "" {
			if _, err := daemon.Wait(b.ctx, func(l lab.Line) bool { return l.Event == "kubelet_known" }); err != nil {
				return err
			}
		}
		return b.resident(when, daemon)
	})
}

// toldByKubelet measures the same where a kubelet tells the pods, as Istio's injector leaves them: 12 kB each.
func (b *bench) toldByKubelet(pods []*lab.Pod) error {
	var env []string
	for i := range 30 {
		env = append(env, fmt.Sprintf("ISTIO_META_VARIABLE_%d=%s", i, strings.Repeat("v", 40)))
	}
	rest := podsapi.Message(3, make([]byte, 8<<10)) // what meshnetd does not read
	var told [][]byte
	for _, pod := range pods {
		told = append(told, append(podsapi.Pod(pod.Spec,
			lab.ContainerSpec{Name: "istio-validation", Args: []string{"istio-iptables", "-p", "15001", "-z", "15006", "--run-validation"}, User: 1337, Group: 1337},
			lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"}, Env: env, User: 1337, Group: 1337},
			lab.ContainerSpec{Name: "app", Env: env[:10], User: 1000, Group: 1000}), rest...))
	}
	server := podsapi.Server{Socket: filepath.Join(b.lab.Dir(), "pods-api.sock"), Watch: podsapi.Telling(told...)}
	if err := server.Start(); err != nil {
		return err
	}
	defer server.Stop()
	return b.takeover(pods, fmt.Sprintf("kubelet.pods_api = %q\n", server.Socket), "the same, and the kubelet tells them")
}

// patience is how long a daemon may take to say what it did.
const patience = 30 * time.Second

// protected waits until the daemon said so of every pod.
func protected(ctx context.Context, daemon *lab.Daemon, pods []*lab.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, pod := range pods {
		if _, err := daemon.WaitPod(ctx, "pod_protected", pod.Spec.Namespace+"/"+pod.Spec.Name); err != nil {
			return err
		}
	}
	return nil
}

// resident prints what the kernel says of the daemon's memory.
func (b *bench) resident(when string, daemon *lab.Daemon) error {
	fmt.Fprintf(b.out, "  %-34s", when)
	for _, key := range []string{"VmRSS", "RssAnon", "VmHWM"} {
		mb, err := megabytes(daemon, key)
		if err != nil {
			return err
		}
		fmt.Fprintf(b.out, " %9.1f MB", mb)
	}
	fmt.Fprintln(b.out)
	return nil
}

// megabytes returns a number of proc_pid_status(5) about the daemon's memory.
func megabytes(daemon *lab.Daemon, key string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", daemon.PID()))
	if err != nil {
		return 0, err
	}
	kB, err := statusNumber(string(text), key)
	return float64(kB) * 1024 / 1e6, err
}

// statusNumber finds a number in what proc_pid_status(5) describes, in kB.
func statusNumber(text, key string) (kB int, err error) {
	_, rest, ok := strings.Cut(text, "\n"+key+":")
	if !ok {
		return 0, fmt.Errorf("the kernel does not say %s of a process", key)
	}
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		return 0, fmt.Errorf("%s of a process: %w", key, err)
	}
	return kB, nil
}
