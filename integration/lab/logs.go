// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Event is a line the stand-in program wrote. At and Started are Unix
// nanoseconds.
type Event struct {
	Event       string `json:"event"`
	Addr        string `json:"addr"`
	Network     string `json:"network"`
	Listener    string `json:"listener"`
	OriginalDst string `json:"original_dst"`
	Peer        string `json:"peer"`
	Remote      string `json:"remote"`
	Local       string `json:"local"`
	Reply       string `json:"reply"`
	Error       string `json:"error"`
	Started     int64  `json:"started"`
	At          int64  `json:"at"`
}

// Logs returns the complete lines the container has written to stdout.
func (c *Container) Logs() ([]string, error) { return c.stream("stdout") }

// Stderr returns the complete lines the container has written to stderr.
func (c *Container) Stderr() ([]string, error) { return c.stream("stderr") }

// Events returns what the stand-in has reported so far.
func (c *Container) Events() ([]Event, error) {
	lines, err := c.Logs()
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, line := range lines {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("log of container %s: line %q: %w", c.Spec.Name, line, err)
		}
		events = append(events, e)
	}
	return events, nil
}

// WaitLine waits for the first line of stdout that match accepts.
func (c *Container) WaitLine(ctx context.Context, match func(line string) bool) (string, error) {
	var found string
	err := Poll(ctx, func() (bool, error) {
		lines, err := c.Logs()
		for _, line := range lines {
			if match(line) {
				found = line
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		lines, _ := c.Logs()
		stderr, _ := c.Stderr()
		return "", fmt.Errorf("wait for a line of container %s: %w; stdout %q, stderr %q", c.Spec.Name, err, lines, stderr)
	}
	return found, nil
}

// WaitEvent waits for the stand-in's first event with that name.
func (c *Container) WaitEvent(ctx context.Context, name string) (Event, error) {
	return c.WaitFor(ctx, func(e Event) bool { return e.Event == name })
}

// WaitFor waits for the stand-in's first event that match accepts.
func (c *Container) WaitFor(ctx context.Context, match func(Event) bool) (Event, error) {
	var found Event
	_, err := c.WaitLine(ctx, func(line string) bool {
		var e Event
		if json.Unmarshal([]byte(line), &e) != nil || !match(e) {
			return false
		}
		found = e
		return true
	})
	return found, err
}

// stream reads the log file, whose lines are "TIME STREAM TAG TEXT": tag P
// marks a part of a line, F its end.
func (c *Container) stream(name string) ([]string, error) {
	data, err := os.ReadFile(c.logPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log of container %s: %w", c.Spec.Name, err)
	}
	var lines []string
	var partial string
	for record := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(record, "\n"), " ", 4)
		// The last record may be half written.
		if len(fields) < 4 || !strings.HasSuffix(record, "\n") || fields[1] != name {
			continue
		}
		partial += fields[3]
		if strings.HasPrefix(fields[2], "F") {
			lines = append(lines, partial)
			partial = ""
		}
	}
	return lines, nil
}

func keyValues(env []string) ([]*criv1.KeyValue, error) {
	var pairs []*criv1.KeyValue
	for _, entry := range env {
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			return nil, fmt.Errorf("environment entry %q is not NAME=value", entry)
		}
		pairs = append(pairs, &criv1.KeyValue{Key: key, Value: []byte(value)})
	}
	return pairs, nil
}
