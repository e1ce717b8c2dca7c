// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
)

func TestPicture(t *testing.T) {
	for _, tt := range []struct {
		name, pod string
		flags     []string
		code      int
	}{
		{"meshed.svg", "meshed.yaml", []string{"-o", "svg"}, 0},
		{"meshed.dot", "meshed.yaml", []string{"-o", "dot"}, 0},
		{"meshed-in.svg", "meshed.yaml", []string{"-o", "svg", "--packet", "--in tcp :8080"}, 0},
		{"meshed-proxy.dot", "meshed.yaml", []string{"-o", "dot", "--packet", "tcp [2001:db8::1]:443 --uid 2102"}, 0},
		{"outside.svg", "outside.yaml", []string{"-o", "svg"}, 0},
		{"refused.svg", "refused.yaml", []string{"-o", "svg"}, exitRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, err := execute(t, "", append([]string{"explain", "-f", testdata(tt.pod), "--config", testdata("default.toml")}, tt.flags...)...)
			if code != tt.code || err != nil && err.Error() != "" {
				t.Errorf("exit %d, want %d: %v", code, tt.code, err)
			}
			golden.Check(t, "explain-"+tt.name, out)
		})
	}
}

func TestPictureOfNothing(t *testing.T) {
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{[]string{"-o", "png"}, `output "png" is none of text, json, svg, dot`},
		{[]string{"--packet", "tcp 203.0.113.10:443"}, "--packet is for a picture"},
		{[]string{"-o", "svg", "--packet", "icmp 203.0.113.10:443"}, `--packet "icmp 203.0.113.10:443": protocol "icmp"`},
		{[]string{"-o", "svg", "--packet", "--uid"}, `--packet "--uid": flag needs an argument`},
		{[]string{"-o", "svg", "--json"}, "if any flags in the group [json output] are set none of the others can be"},
	} {
		code, out, err := execute(t, "", append([]string{"explain", "-f", testdata("meshed.yaml")}, tt.flags...)...)
		if code != exitBadConfig || out != "" || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: exit %d, %q, %v; want %q", tt.flags, code, out, err, tt.want)
		}
	}
}
