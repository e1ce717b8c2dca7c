// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// While a pod's rules are replaced a thousand times (in a short run, 100), its peer and its own app open connections, one after the
// other: none goes around the proxy. Where the rules are away in between, some do, so that it would be seen.
func TestNobodyGetsAroundAReplacement(t *testing.T) {
	for _, variant := range []string{backend.IPTables, backend.NFTables} {
		t.Run(variant, func(t *testing.T) {
			pod := meshed("", "traffic.sidecar.istio.io/excludeOutboundPorts", "19091")
			pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_DUAL_STACK": "true"}}}
			p := newPair(t, variant, istio.Standard(), pod)
			go func() { // what the proxy reports is in its replies too
				for range p.proxy.events {
				}
			}()
			replaced := replacing{t: t, pair: p, firewall: labtest.Firewall(t, variant)}
			times := 1000
			if testing.Short() {
				times = 100
			}
			if proxied, around := replaced.times(times, false); around > 0 || proxied < 100 {
				t.Errorf("%d connections went around the proxy, %d did not", around, proxied)
			}
			for round := 0; ; round++ {
				if _, around := replaced.times(50, true); around > 0 {
					break
				}
				if round == 100 {
					t.Fatal("nothing goes around the proxy without rules: this test sees nothing")
				}
			}
		})
	}
}

// replacing is a pod whose rules are replaced while connections are opened.
type replacing struct {
	t        *testing.T
	pair     pair
	firewall kernel.Firewall
}

// perReplacement is how many connections are opened while the rules are replaced once: more would only keep the processor busy.
const perReplacement = 16

// times replaces the rules n times, with a moment without any in between if gap is set, and counts the
// connections that reached the proxy and those that did not.
func (r replacing) times(n int, gap bool) (proxied, around int64) {
	r.t.Helper()
	ns, err := netns.Open(r.pair.pod.Path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer ns.Close()
	tickets := make(chan struct{}, perReplacement)
	var callers sync.WaitGroup
	var toProxy, elsewhere atomic.Int64
	for _, c := range []struct {
		from *nstest.Namespace
		addr string
		want string
	}{
		{r.pair.peer, pod4 + ":18080", "inbound"}, {r.pair.peer, pod6 + ":18080", "inbound"},
		{r.pair.pod, peer4 + ":19090", "outbound"}, {r.pair.pod, peer6 + ":19090", "outbound"},
	} {
		callers.Go(func() {
			for range tickets {
				reply, err := call(c.from.Path, c.addr)
				switch {
				case strings.HasPrefix(reply, c.want):
					toProxy.Add(1)
				case err != nil && !gap:
					r.t.Errorf("%s: %v", c.addr, err)
					return
				case err == nil:
					elsewhere.Add(1)
				}
			}
		})
	}
	var plans [2]rules.Plan
	for i := range plans {
		plans[i] = planOf(r.t, ns, fmt.Sprint(19091+i))
	}
	for i := range n {
		for range perReplacement {
			select {
			case tickets <- struct{}{}:
			default: // those of the last one are not used up yet
			}
		}
		if gap {
			r.apply(ns, rules.Plan{Footprint: plans[0].Footprint})
		}
		r.apply(ns, plans[(i+1)%2]) // the pod begins and ends with the first
	}
	close(tickets)
	callers.Wait()
	return toProxy.Load(), elsewhere.Load()
}

func (r replacing) apply(ns *netns.Namespace, plan rules.Plan) {
	r.t.Helper()
	if changed, err := r.firewall.Apply(r.t.Context(), ns, plan); err != nil || !changed {
		r.t.Fatalf("changed %t, %v", changed, err)
	}
}

// planOf is the plan of a dual-stack pod that leaves a port out.
func planOf(t *testing.T, ns *netns.Namespace, port string) rules.Plan {
	t.Helper()
	defaults := istio.Standard()
	defaults.DualStack = true
	d := istio.New(defaults).Decide(meshed(ns.Path(), "traffic.sidecar.istio.io/excludeOutboundPorts", port))
	plan, err := d.Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr(pod4), netip.MustParseAddr(strings.Trim(pod6, "[]"))}})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// call connects from within a namespace and returns the first line of what answers.
func call(path, addr string) (reply string, err error) {
	ns, err := netns.Open(path, nil)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		conn, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		reply, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
	return reply, err
}
