// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/speed"
)

// What one sample is.
const (
	synsPerSample        = 500
	connectionsPerSample = 100
)

// scene is a namespace whose rules packets meet.
type scene struct {
	name   string
	err    error // why it is not measured
	ns     *netns.Namespace
	flows  *flows
	target [4]byte // of connections
	port   uint16
	note   string
}

// packet measures what rules cost a new connection. Rules for redirection are asked for the first packet of a
// connection only, so that packets are made which are all the first of one.
func (b *bench) packet() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	defer n.end()
	scenes, err := b.scenes()
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range scenes {
			s.close()
		}
	}()
	var syns, connections []*speed.Peer
	for _, s := range scenes {
		syns = append(syns, &speed.Peer{Name: s.name, Absent: s.err, Per: synsPerSample, Note: s.note,
			Do: func() error { return s.flows.syns(synsPerSample) }})
		connections = append(connections, s.connecting())
	}
	if err := speed.Interleave(b.ctx, b.rounds(200), syns...); err != nil {
		return err
	}
	// Packets leave before connections are made: they would wait in the table of connections for their end.
	speed.Table(b.out, "first packet of a TCP connection, sent by an app of the pod", speed.Rows(syns...)...)
	b.notef("each sample is %d SYNs from a raw socket to addresses that are redirected, dropped behind all rules", synsPerSample)
	b.growth(scenes, syns)
	if err := b.plot("packet", speed.DrawLines("the first packet of a connection", "ranges excluded", "µs", byRanges(scenes, syns))); err != nil {
		return err
	}
	if err := speed.Interleave(b.ctx, b.rounds(80), connections...); err != nil {
		return err
	}
	speed.Table(b.out, "TCP connection of an app to the proxy: connect, accept, reset", speed.Rows(connections...)...)
	b.notef("each sample is %d connections; without rules they go to the listener itself", connectionsPerSample)
	b.growth(scenes, connections)
	return nil
}

// ranges returns the dialect of a scene with lists, and their length; false where it has none.
func (s *scene) ranges() (dialect string, n int, found bool) {
	_, err := fmt.Sscanf(s.name, "%s %d", &dialect, &n)
	return strings.TrimSuffix(dialect, ","), n, err == nil && s.err == nil
}

// byRanges are the medians of each dialect, in µs.
func byRanges(scenes []*scene, peers []*speed.Peer) (lines []speed.Line) {
	for i, s := range scenes {
		dialect, n, found := s.ranges()
		if !found {
			continue
		}
		if len(lines) == 0 || lines[len(lines)-1].Name != dialect {
			lines = append(lines, speed.Line{Name: dialect})
		}
		l := &lines[len(lines)-1]
		l.Points = append(l.Points, speed.Point{X: float64(n), Y: float64(peers[i].Median()) / float64(time.Microsecond)})
	}
	return lines
}

// connecting makes connections of an app to the proxy.
func (s *scene) connecting() *speed.Peer {
	return &speed.Peer{Name: s.name, Absent: s.err, Per: connectionsPerSample,
		Do: func() error {
			return s.ns.Do(func() error { return s.flows.connections(connectionsPerSample, s.target, s.port) })
		}}
}

// growth prints for each dialect what its lists add to what it costs without them.
func (b *bench) growth(scenes []*scene, peers []*speed.Peer) {
	var none *speed.Peer
	for i, s := range scenes {
		dialect, ranges, found := s.ranges()
		if !found {
			continue
		}
		if ranges == 0 {
			none = peers[i]
		} else if none != nil {
			b.notef("%s %d ranges to none, of the same rounds: %s", dialect, ranges, spread(speed.Ratios(peers[i].Samples, none.Samples)))
		}
	}
	b.notef("goal: nftables within 1.05 up to 1000 ranges")
}

// scenes are no rules, the least that redirects, and the rules of pods with more and more excluded ranges.
func (b *bench) scenes() ([]*scene, error) {
	direct, redirected := [4]byte{127, 0, 0, 1}, [4]byte{203, 0, 113, 1}
	none := &scene{name: "no rules, no tracking of connections", target: direct, port: proxyPort}
	one := &scene{name: "one rule, REDIRECT of all TCP, and tracking", target: redirected, port: 80}
	all := []*scene{none, one}
	if err := b.prepare(none, nil); err != nil {
		return nil, err
	}
	if err := b.prepare(one, func(path string) error {
		return inside(path, "iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", fmt.Sprint(proxyPort))
	}); err != nil {
		return nil, err
	}
	for _, w := range b.node.backends {
		if w.exec { // they write what the dialect "iptables" writes, or what works as that does
			continue
		}
		for _, ranges := range []int{0, 40, 1000} {
			s := &scene{name: fmt.Sprintf("%s, %d ranges excluded", w.label, ranges), err: w.err, target: redirected, port: 80}
			all = append(all, s)
			if w.err != nil {
				continue
			}
			if err := b.prepare(s, func(path string) error {
				pod, err := b.node.pod(s.name, map[string]string{"traffic.sidecar.istio.io/excludeOutboundIPRanges": apart(ranges)})
				if err != nil {
					return err
				}
				pod.NetNS = path
				began := time.Now()
				err = protect(b.ctx, b.node.enforcer(w, kind{defaults: dualStack()}), pod)
				s.note = "written in " + speed.Text(time.Since(began))
				return err
			}); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return all, nil
}

// apart is a list of so many ranges, no two of which are one.
func apart(n int) string {
	ranges := make([]string, n)
	for i := range ranges {
		ranges[i] = fmt.Sprintf("172.%d.%d.0/24", 16+i/128, i%128*2)
	}
	return strings.Join(ranges, ",")
}

// prepare makes the scene's namespace, lets write put its rules in, and drops behind them what is sent to
// the network: a packet that goes on would cost more than the rules.
func (b *bench) prepare(s *scene, write func(path string) error) error {
	path, err := b.node.open("10.0.0.1/24", "fd00::1/64")
	if err != nil {
		return err
	}
	if write != nil {
		if err := write(path); err != nil {
			return err
		}
	}
	// Only what comes from a raw socket has this type of service.
	if err := inside(path, "iptables-nft", "-t", "filter", "-A", "OUTPUT", "-m", "dscp", "--dscp", fmt.Sprint(dscp), "-j", "DROP"); err != nil {
		return err
	}
	if s.ns, err = netns.Open(path, b.node.host); err != nil {
		return err
	}
	return s.ns.Do(func() (err error) { s.flows, err = newFlows(); return err })
}

func (s *scene) close() {
	if s.flows != nil {
		s.flows.close()
	}
	if s.ns != nil {
		s.ns.Close()
	}
}

func inside(path, program string, args ...string) error {
	out, err := exec.Command("nsenter", append([]string{"--net=" + path, program}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}
