// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// The channels of an exec by websocket.
const (
	execOut    = 1
	execErrs   = 2
	execStatus = 3
)

// said answers an exec with what a program says: each text on its channel.
func said(w http.ResponseWriter, r *http.Request, texts ...string) {
	accept := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"+
		"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", base64.StdEncoding.EncodeToString(accept[:]))
	for _, text := range texts {
		_, _ = buffered.Write([]byte{0x82, 126, byte(len(text) >> 8), byte(len(text))}) // one binary message
		_, _ = buffered.WriteString(text)
	}
	_, _ = buffered.Write([]byte{0x88, 2, 0x03, 0xe8}) // the end, which is well
	_ = buffered.Flush()
	_, _ = io.Copy(io.Discard, buffered) // until it is read
}

// What meshnetd prints on a node quotes rules that pods wrote, and an old one prints them as they are.
func TestExecLeavesTheTerminalAlone(t *testing.T) {
	const hostile = "-o e\x1b[2J\u009b31m -j RETURN\n"
	f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy()}, objects: map[string]string{"/api/v1/namespaces/shop/pods/web": meshed("web", "a", "")}}
	f.exec = func(w http.ResponseWriter, r *http.Request) {
		said(w, r, string(rune(execOut))+"one\n\xc2", string(rune(execOut))+"\x9b"+hostile, string(rune(execErrs))+hostile,
			string(rune(execStatus))+`{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"4"}]}}`)
	}
	for command, want := range map[string]string{
		"verify web": "shop/web\none\n -o e [2J 31m -j RETURN\n|-o e [2J 31m -j RETURN\n",
		"doctor":     "node a\none\n -o e [2J 31m -j RETURN\n-o e [2J 31m -j RETURN\n\n|",
	} {
		code, out, errs := f.asked(t, strings.Fields(command)...)
		if code != exitUnprotected || out+"|"+errs != want {
			t.Errorf("%s: exit %d, %q on standard output, %q on standard error", command, code, out, errs)
		}
	}
}

// An error quotes what a node, the API server or a manifest says.
func TestErrorsLeaveTheTerminalAlone(t *testing.T) {
	f := &fake{objects: map[string]string{}}
	if code, _, errs := f.asked(t, "explain", "web\x1b[2J"); code == 0 || strings.Contains(errs, "\x1b") {
		t.Errorf("exit %d, %q", code, errs)
	}
}
