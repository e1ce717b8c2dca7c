// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/meshnetd/meshnetd/cri"
	"github.com/meshnetd/meshnetd/doctor"
)

// sockets are those at which a runtime may serve CRI.
func sockets(configured string) []string {
	if configured != "" {
		return []string{configured}
	}
	return []string{cri.Socket("containerd"), cri.Socket("cri-o"), "/run/k3s/containerd/containerd.sock"}
}

// findRuntime asks at every socket; the first that answers counts. It returns the runtime's process, or 0 where that is
// not known.
func findRuntime(ctx context.Context, t tree, configured string) (rt doctor.Runtime, process int) {
	for _, socket := range sockets(configured) {
		if rt.Socket != "" {
			_, err := peer(ctx, t.path(socket))
			rt.Tried = append(rt.Tried, doctor.Tried{Socket: socket, Err: err})
			continue
		}
		pid, err := peer(ctx, t.path(socket))
		if err == nil {
			err = ask(ctx, t.path(socket), &rt)
		}
		rt.Tried = append(rt.Tried, doctor.Tried{Socket: socket, Err: err})
		if err == nil {
			rt.Socket, process = socket, pid
		}
	}
	return rt, process
}

// ask fills in what the runtime says. Its error says that nothing of use listens there.
func ask(ctx context.Context, socket string, rt *doctor.Runtime) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	var criErr error
	rt.Name, rt.Version, criErr = cri.Client{Socket: socket}.Version(ctx)
	if criErr == nil && rt.Name != "containerd" {
		return nil
	}
	err := askContainerd(ctx, socket, rt)
	if criErr == nil {
		rt.Asked, rt.AskErr = true, err
		return nil
	}
	if err != nil {
		return criErr
	}
	rt.Asked, rt.CRIErr = true, criErr // containerd without CRI
	return nil
}

// askContainerd asks for its plugins. Its version comes over CRI.
func askContainerd(ctx context.Context, socket string, rt *doctor.Runtime) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	plugins, err := introspection.NewIntrospectionClient(conn).Plugins(ctx, &introspection.PluginsRequest{})
	if err != nil {
		return fmt.Errorf("ask containerd for its plugins: %w", err)
	}
	for _, p := range plugins.GetPlugins() {
		if p.GetType() == "io.containerd.nri.v1" {
			rt.NRIPlugin, rt.NRIErr = true, p.GetInitErr().GetMessage()
		}
	}
	return nil
}

// peer connects to a socket, and returns the process that listens there: 0 for one that cannot be seen from here.
func peer(ctx context.Context, socket string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if socket == "" {
		return 0, errors.New("no socket is configured")
	}
	dialled, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, err
	}
	defer dialled.Close()
	raw, err := dialled.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", socket, err)
	}
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, err
}

// listens reports whether somebody listens on a socket. The runtime waits for each plugin that connects in turn, so that
// the connection is closed at once.
func listens(ctx context.Context, socket string) error {
	_, err := peer(ctx, socket)
	return err
}

// canary asks the runtime for a container that must be refused.
func canary(ctx context.Context, socket, image string) *doctor.Canary {
	ctx, cancel := context.WithTimeout(ctx, canaryLimit)
	defer cancel()
	came := cri.Client{Socket: socket}.Canary(ctx, image)
	return &doctor.Canary{Refused: came.Refused, Created: came.Created, Err: came.Err, Left: came.Left}
}

// installed reports whether systemd knows meshnetd's unit.
func (t tree) installed() bool {
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(t.path(filepath.Join(dir, "meshnetd.service"))); err == nil {
			return true
		}
	}
	return false
}
