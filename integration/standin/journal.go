// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// event is one line of output. At is the time of the event in Unix
// nanoseconds; Started is when a client began to connect.
type event struct {
	Event       string `json:"event"`
	Addr        string `json:"addr,omitempty"`
	Network     string `json:"network,omitempty"`
	Listener    string `json:"listener,omitempty"`
	OriginalDst string `json:"original_dst,omitempty"`
	Peer        string `json:"peer,omitempty"`
	Remote      string `json:"remote,omitempty"`
	Local       string `json:"local,omitempty"`
	Reply       string `json:"reply,omitempty"`
	Error       string `json:"error,omitempty"`
	Started     int64  `json:"started,omitempty"`
	At          int64  `json:"at"`
}

// journal writes events, each with a single unbuffered write.
type journal struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *journal) write(e event) {
	if j.w == io.Discard { // a flood writes most of all
		return
	}
	if e.At == 0 {
		e.At = time.Now().UnixNano()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.w.Write(append(line, '\n'))
}
