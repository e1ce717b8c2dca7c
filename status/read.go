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
	"strings"
	"syscall"
	"time"
)

const (
	readLimit  = 10 * time.Second
	mostStatus = 64 << 20 // bytes; a node has some hundred pods, of some hundred bytes each
)

// errNobody is within the error of Read when nobody listens on the socket.
var errNobody = errors.New("meshnetd is not running, or its status_socket is another one: look at its log and configuration")

// Read asks the daemon on that socket. It takes as long as ctx allows, and 10 seconds at most. Its error
// says what to look at.
func Read(ctx context.Context, socket string) (Status, error) {
	if socket == "" {
		return Status{}, errors.New("read the status: status_socket is empty in the configuration, so that the daemon tells nothing")
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	s, err := ask(ctx, socket)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		err = fmt.Errorf("%w (%w)", errNobody, err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: only root may ask", err)
	case ctx.Err() != nil:
		err = fmt.Errorf("meshnetd does not answer: %w: look at its log", err)
	}
	return Status{}, fmt.Errorf("read the status from %s: %w", socket, err)
}

func ask(ctx context.Context, socket string) (Status, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://meshnetd"+path, nil)
	if err != nil {
		return Status{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Status{}, err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, mostStatus)
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(body, 1024)) // the status line says enough
		return Status{}, fmt.Errorf("the answer is %s: %q; is the daemon of this version?", resp.Status, strings.TrimSpace(string(said)))
	}
	var s Status
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return Status{}, fmt.Errorf("the answer is no status: %w; is the daemon of this version?", err)
	}
	return s, nil
}
