// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// The sections that need no containerd measure something, with all that this machine must have.
func TestKernelSections(t *testing.T) {
	nstest.Require(t, "iptables-nft", "iptables-legacy", "iptables-nft-restore")
	var out strings.Builder
	b := bench{ctx: t.Context(), out: &out, effort: 1}
	if err := b.run("hook,packet"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hook, Istio's default rules", "hook, TPROXY, DNS, 40 inbound ports excluded", "allocations",
		"iptables, 1000 ranges excluded", "first packet of a TCP connection", "TCP connection of an app to the proxy",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing is said of %q", want)
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "not measured") && !strings.HasPrefix(line, "  nftables") {
			t.Error(line)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestUnknownSection(t *testing.T) {
	b := bench{ctx: t.Context(), out: t.Output(), effort: 1}
	if err := b.run("hook,speed"); err == nil || !strings.Contains(err.Error(), `no section "speed": choose from hook,`) {
		t.Errorf("%v", err)
	}
}

// A pod whose packets pass a chain that is not there would make the figures too good.
func TestPacketThatIsNotDropped(t *testing.T) {
	nstest.Require(t)
	b := bench{ctx: t.Context(), out: t.Output(), effort: 1}
	n, err := b.ready()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	s := &scene{}
	defer s.close()
	if err := b.prepare(s, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.flows.syns(1); err != nil {
		t.Fatal(err)
	}
	if err := inside(s.ns.Path(), "iptables-nft", "-t", "filter", "-F", "OUTPUT"); err != nil {
		t.Fatal(err)
	}
	if err := s.flows.syns(1); err == nil || !strings.Contains(err.Error(), "to be dropped was not") {
		t.Errorf("%v", err)
	}
}

// The list of ranges stays as long as it is asked for: dialects may write neighbours as one.
func TestRangesAreApart(t *testing.T) {
	ranges := strings.Split(apart(1000), ",")
	if len(ranges) != 1000 {
		t.Fatalf("%d ranges", len(ranges))
	}
	seen := map[netip.Prefix]bool{}
	for _, text := range ranges {
		prefix := netip.MustParsePrefix(text)
		wider := netip.PrefixFrom(prefix.Addr(), prefix.Bits()-1).Masked()
		if seen[wider] || prefix != prefix.Masked() {
			t.Errorf("%s is not a range of its own", prefix)
		}
		seen[wider] = true
	}
}

// Every kind of pod has its own rules, and more of them where more is excluded.
func TestKinds(t *testing.T) {
	count := map[string]int{}
	for _, k := range kinds() {
		pod := rules.Pod{Name: "web", NetNS: "any", Annotations: k.annotations, IPs: []netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations["sidecar.istio.io/status"] = `{"initContainers":["istio-validation"],"containers":["istio-proxy"]}`
		plan, err := planOf(k.defaults, pod)
		if err != nil {
			t.Fatal(err)
		}
		count[k.name] = plan.Rules()
	}
	plain := plans.DualStack(t).Rules()
	if count["Istio's default rules"] != plain || count["TPROXY, DNS, 40 outbound ports excluded"] < plain+2*2*40 ||
		count["TPROXY, DNS, 40 inbound ports excluded"] < plain+2*40 {
		t.Errorf("numbers of rules: %v", count)
	}
}

func TestReported(t *testing.T) {
	out := []byte(`goos: linux
BenchmarkBare/iptables-2  	     200	    160905 1_sent_once-median	   1342669.5 1_sent_once-p99	  265338 2_Apply-median	 3348713 2_Apply-p99	   12 B/op
BenchmarkBare/nftables-2  	     100	    1 1_x-median	   2 2_x-p99
PASS
`)
	want := []speed.Row{{Name: "sent once", N: 200, Median: 160905, P99: 1342669}, {Name: "Apply", N: 200, Median: 265338, P99: 3348713}}
	if diff := cmp.Diff(want, reported(out, "BenchmarkBare/iptables")); diff != "" {
		t.Error(diff)
	}
	for _, other := range []string{"BenchmarkBare/nftables", "BenchmarkOther"} {
		if rows := reported(out, other); len(rows) != 0 {
			t.Errorf("%s: %v", other, rows)
		}
	}
}

func TestStatusNumber(t *testing.T) {
	const text = "Name:\tVmRSS: 1\nVmHWM:\t   20 kB\nVmRSS:\t   10300 kB\nVmSwap:\tno\n"
	if n, err := statusNumber(text, "VmRSS"); n != 10300 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, key := range []string{"VmSwap", "Vm", "RssAnon"} {
		if n, err := statusNumber(text, key); err == nil {
			t.Errorf("%s is %d", key, n)
		}
	}
}

func TestParallel(t *testing.T) {
	var sum, now, most atomic.Int64
	both := make(chan struct{})
	err := parallel(t.Context(), 10, 2, func(i int) error {
		n := now.Add(1)
		for range 100 { // time for one more than there should be
			runtime.Gosched()
			n = max(n, now.Load())
		}
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		switch i { // the first two wait for each other
		case 0:
			both <- struct{}{}
		case 1:
			<-both
		}
		now.Add(-1)
		sum.Add(int64(i))
		return nil
	})
	if err != nil || sum.Load() != 45 || most.Load() != 2 {
		t.Errorf("%v; sum %d, at most %d at once", err, sum.Load(), most.Load())
	}
	wrong := errors.New("wrong")
	calls := 0
	if err := parallel(t.Context(), 1000, 1, func(int) error { calls++; return wrong }); !errors.Is(err, wrong) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := parallel(ended, 10, 1, func(int) error { calls++; return nil }); !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestSpread(t *testing.T) {
	for want, ratios := range map[string][]float64{
		"none": nil,
		"1.000, half of them from 1.000 to 1.000": {1},
		"3.000, half of them from 2.000 to 4.000": {1, 2, 3, 4, 5},
	} {
		if got := spread(ratios); got != want {
			t.Errorf("%v: %q, want %q", ratios, got, want)
		}
	}
}
