// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestProblems(t *testing.T) {
	good := Result{Runtime: lab.Containerd24, Proxied: 2}
	for _, test := range []struct {
		name   string
		change func(*Result)
		want   string // part of the only problem; "" is none
	}{
		{"good", func(*Result) {}, ""},
		{"a packet", func(r *Result) { r.Around = 1 }, "1 packets went around the mesh"},
		{"a datagram", func(r *Result) { r.Thrown = 1 }, "1 datagrams"},
		{"a connection that the capture missed", func(r *Result) { r.Accepted = 1 }, "accepted 1 connections"},
		{"best effort", func(r *Result) { r.Runtime, r.Around = lab.Containerd17, 1 }, ""},
		{"best effort, promised all the same", func(r *Result) { r.Runtime, r.Around, r.Row.Everywhere = lab.Containerd17, 1, true }, "went around"},
		{"a refused start", func(r *Result) { r.Around, r.Row.AtStart = 1, true }, "went around"},
		{"a refused start, which CRI-O does not heed", func(r *Result) { r.Runtime, r.Around, r.Row.AtStart = lab.CRIO, 1, true }, ""},
		{"a known hole", func(r *Result) { r.Around, r.Row.Hole = 1, true }, ""},
		{"nothing at the proxy", func(r *Result) { r.Proxied = 0 }, "no connection came to the proxy"},
		{"nothing at the proxy, best effort", func(r *Result) { r.Runtime, r.Proxied = lab.Containerd17, 0 }, "no connection came to the proxy"},
		{"the row failed", func(r *Result) { r.Err = errors.New("did not come up") }, "did not come up"},
		{"a data race", func(r *Result) { r.Log = "x\nWARNING: DATA RACE\n" }, "data race"},
		{"outside the mesh", func(r *Result) { r.Row.Outside, r.Around, r.Thrown, r.Accepted, r.Proxied = true, 1, 1, 1, 0 }, ""},
		{"a blind capture", func(r *Result) { r.Row.Outside, r.Around, r.Thrown, r.Accepted = true, 0, 1, 1 }, "neither may be blind"},
		{"a capture blind to UDP", func(r *Result) { r.Row.Outside, r.Around, r.Thrown, r.Accepted = true, 1, 0, 1 }, "neither may be blind"},
		{"a blind server", func(r *Result) { r.Row.Outside, r.Around, r.Thrown, r.Accepted = true, 1, 1, 0 }, "neither may be blind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := good
			test.change(&r)
			got := strings.Join(r.Problems(), "; ")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("problems %q, want %q", got, test.want)
			}
		})
	}
}

func TestSoakProblems(t *testing.T) {
	size := Size{Threads: 10, FDs: 11, RSS: 20000}
	for _, test := range []struct {
		name   string
		change func(*SoakResult)
		want   string
	}{
		{"good", func(*SoakResult) {}, ""},
		{"a packet", func(r *SoakResult) { r.Around = 1 }, "went around"},
		{"a connection", func(r *SoakResult) { r.Accepted = 1 }, "went around"},
		{"an unprotected pod", func(r *SoakResult) { r.Unprotected = []string{"web-7"} }, "web-7"},
		{"something left", func(r *SoakResult) { r.Left = []string{"mount /x"} }, "mount /x"},
		{"nobody killed", func(r *SoakResult) { r.Kills = 0 }, "no daemon was killed"},
		{"a data race", func(r *SoakResult) { r.Race = true }, "data race"},
		{"a thread for each pod", func(r *SoakResult) { r.Long.Threads += 50 }, "threads of meshnetd grew"},
		{"a thread left in a pod", func(r *SoakResult) { r.Long.Abroad++ }, "threads of meshnetd in pods"},
		{"a descriptor for each pod", func(r *SoakResult) { r.Long.FDs += 50 }, "file descriptors"},
		{"memory", func(r *SoakResult) { r.Long.RSS *= 2 }, "memory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := SoakResult{Kills: 1, Fresh: size, Long: size}
			test.change(&r)
			got := strings.Join(r.Problems(), "; ")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("problems %q, want %q", got, test.want)
			}
		})
	}
}

func TestProgramsObey(t *testing.T) {
	nstest.Require(t, "iptables-nft", "ip6tables-nft")
	p, err := installPrograms(t.TempDir(), "/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	version := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(p.dir, "ip6tables-nft"), "--version").Output()
		return string(out), err
	}
	if out, err := version(); err != nil || !strings.HasPrefix(out, "ip6tables v") {
		t.Errorf("untold: %q, %v", out, err)
	}
	for verb, fails := range map[string]bool{fail: true, lie: false} {
		if err := p.tell(verb, "ip6tables-nft"); err != nil {
			t.Fatal(err)
		}
		if p.check(verb) == nil {
			t.Errorf("told to %s, and said to have done it before anybody ran it", verb)
		}
		if out, err := version(); out != "" || (err != nil) != fails {
			t.Errorf("told to %s: %q, %v", verb, out, err)
		}
		if err := p.check(verb); err != nil {
			t.Error(err)
		}
		if err := p.obey(); err != nil {
			t.Fatal(err)
		}
		if out, err := version(); err != nil || out == "" {
			t.Errorf("after %s: %q, %v", verb, out, err)
		}
	}
}
