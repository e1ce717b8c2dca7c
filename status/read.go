// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	readLimit  = 10 * time.Second
	mostStatus = 64 << 20 // bytes; a node has some hundred pods, of some hundred bytes each
)

// ErrNobody is within the error of Read when nobody listens on the socket.
var ErrNobody = errors.New("meshnetd is not running (`systemctl status meshnetd`), or its socket is another one (--socket, status_socket)")

// ErrUnknown is within the error of Verify, Repair, ReadPlan and Explain where the daemon knows no such sandbox.
var ErrUnknown = errors.New("the daemon knows no such sandbox any more: ask for the status again")

// Read asks the daemon on that socket. It takes as long as ctx allows, and 10 seconds at most. Its error
// says what to look at.
func Read(ctx context.Context, socket string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return ask[Status](ctx, socket, "read the status", http.MethodGet, path)
}

// Verify has the daemon compare a sandbox with the kernel, rule by rule, as it is now. It changes nothing.
func Verify(ctx context.Context, socket, id string) (Verdict, error) {
	return ask[Verdict](ctx, socket, "verify sandbox "+id, http.MethodGet, sandboxPath(id, "verify"))
}

// Repair has the daemon bring a sandbox's rules back to what its configuration says today.
func Repair(ctx context.Context, socket, id string) (Verdict, error) {
	return ask[Verdict](ctx, socket, "repair sandbox "+id, http.MethodPost, sandboxPath(id, "repair"))
}

// ReadPlan asks what a sandbox is to hold.
func ReadPlan(ctx context.Context, socket, id string) (Plan, error) {
	return ask[Plan](ctx, socket, "read the plan of sandbox "+id, http.MethodGet, sandboxPath(id, "plan"))
}

// Explain asks why a sandbox is treated as it is.
func Explain(ctx context.Context, socket, id string) (Explanation, error) {
	return ask[Explanation](ctx, socket, "explain sandbox "+id, http.MethodGet, sandboxPath(id, "explain"))
}

func sandboxPath(id, what string) string { return sandboxes + url.PathEscape(id) + "/" + what }

// ask returns what the daemon says, or tells what to look at.
func ask[T any](ctx context.Context, socket, what, method, path string) (answer T, err error) {
	var nothing T
	if socket == "" {
		return nothing, fmt.Errorf("%s: status_socket is empty in the configuration, so that the daemon tells nothing", what)
	}
	err = request(ctx, socket, method, path, &answer)
	switch {
	case err == nil:
		return answer, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		err = fmt.Errorf("%w (%w)", ErrNobody, err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: only root may ask; try sudo", err)
	case ctx.Err() != nil:
		err = fmt.Errorf("meshnetd does not answer: %w: look at its log", err)
	}
	return nothing, fmt.Errorf("%s from %s: %w", what, socket, err)
}

func request(ctx context.Context, socket, method, path string, answer any) error {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://meshnetd"+path, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, mostStatus)
	if resp.StatusCode == http.StatusGone {
		return ErrUnknown
	}
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(body, 1024)) // without it the status line says enough
		return fmt.Errorf("the answer is %s: %q; is the daemon of this version?", resp.Status, strings.TrimSpace(string(said)))
	}
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("the answer is no status: %w; is the daemon of this version?", err)
	}
	return nil
}
