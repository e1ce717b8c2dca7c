// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// How many clients there may be at once. Clients on the node have places of their own, which remote ones cannot take.
const (
	mostClients = 16 // of the node: on a unix socket, from a loopback address or one that is the listener's too
	mostRemote  = 64
	mostOfPeer  = 8 // of them, from one address
)

// places is a listener on which no client can keep another one out. A new client gets a place at once. Where none is left,
// it takes that of the oldest client that keeps the daemon waiting: one that has not sent its request, or does not read
// its answer. This also bounds the daemon's file descriptors.
type places struct {
	net.Listener
	done  <-chan struct{}
	freed chan struct{} // signals that there may be a place; buffered

	mu      sync.Mutex
	clients []*client // oldest first
}

func newPlaces(listener net.Listener, done <-chan struct{}) *places {
	return &places{Listener: listener, done: done, freed: make(chan struct{}, 1)}
}

// client is a connection that has a place.
type client struct {
	net.Conn
	of    *places
	peer  netip.Addr // the zero address on a unix socket
	local bool

	// Guarded by the places.
	said bool // it has sent its request
	busy bool // the daemon is making its answer
}

// Accept waits only while every client that could lose its place is being answered. The server waits for Accept before it
// closes its connections, so that this ends with the daemon.
func (p *places) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, of: p}
	c.peer, c.local = peerOf(conn)
	for !p.place(c) {
		select {
		case <-p.freed:
		case <-p.done:
			_ = conn.Close()
			return nil, net.ErrClosed
		}
	}
	return c, nil
}

// peerOf returns the client's address, and whether it is on this node.
func peerOf(conn net.Conn) (peer netip.Addr, local bool) {
	remote, tcp := conn.RemoteAddr().(*net.TCPAddr)
	if !tcp {
		return netip.Addr{}, true
	}
	peer = remote.AddrPort().Addr().Unmap()
	here, _ := conn.LocalAddr().(*net.TCPAddr)
	return peer, peer.IsLoopback() || here != nil && here.AddrPort().Addr().Unmap() == peer
}

// place gives the client a place, another one's if need be; false where there is none.
func (p *places) place(c *client) bool {
	p.mu.Lock()
	ofPeer := func(other *client) bool { return other.local == c.local && other.peer == c.peer }
	ofKind := func(other *client) bool { return other.local == c.local }
	var loser *client
	full := true
	switch {
	case !c.local && p.count(ofPeer) >= mostOfPeer:
		loser = p.oldest(ofPeer)
	case p.count(ofKind) >= c.places():
		loser = p.oldest(p.ofGreediest(ofKind))
	default:
		full = false
	}
	if full && loser == nil {
		p.mu.Unlock()
		return false
	}
	p.clients = append(slices.DeleteFunc(p.clients, func(other *client) bool { return other == loser }), c)
	p.mu.Unlock()
	if loser != nil {
		_ = loser.Conn.Close()
	}
	return true
}

func (c *client) places() int {
	if c.local {
		return mostClients
	}
	return mostRemote
}

func (p *places) count(is func(*client) bool) (n int) {
	for _, c := range p.clients {
		if is(c) {
			n++
		}
	}
	return n
}

// oldest returns the oldest of those clients that keeps the daemon waiting, or nil: of the ones that owe a request or of
// the ones that are to read an answer, whichever are more, so that neither kind can crowd out the other.
func (p *places) oldest(is func(*client) bool) *client {
	var first [2]*client
	var many [2]int
	for _, c := range p.clients {
		if !is(c) || c.busy {
			continue
		}
		kind := 0
		if c.said {
			kind = 1
		}
		if many[kind]++; first[kind] == nil {
			first[kind] = c
		}
	}
	if many[0] > many[1] {
		return first[0]
	}
	return first[1]
}

// ofGreediest narrows clients to those of the peer with the most clients that keep the daemon waiting.
func (p *places) ofGreediest(is func(*client) bool) func(*client) bool {
	counts := map[netip.Addr]int{}
	var greediest netip.Addr
	for _, c := range p.clients {
		if !is(c) || c.busy {
			continue
		}
		if counts[c.peer]++; counts[c.peer] > counts[greediest] || len(counts) == 1 {
			greediest = c.peer
		}
	}
	return func(c *client) bool { return is(c) && c.peer == greediest }
}

// at notes whether the daemon is making the client's answer.
func (c *client) at(busy bool) {
	c.of.mu.Lock()
	c.busy, c.said = busy, true
	c.of.mu.Unlock()
	if !busy {
		c.of.free()
	}
}

func (p *places) free() {
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// Write waits for the client to take what is written.
func (c *client) Write(b []byte) (int, error) {
	c.at(false)
	n, err := c.Conn.Write(b)
	c.at(true)
	return n, err
}

// Close gives the place back.
func (c *client) Close() error {
	c.of.mu.Lock()
	c.of.clients = slices.DeleteFunc(c.of.clients, func(other *client) bool { return other == c })
	c.of.mu.Unlock()
	c.of.free()
	return c.Conn.Close()
}

type clientKey struct{}

func withClient(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, clientKey{}, conn)
}

// attending tells the places when a client has sent its request.
func attending(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(clientKey{}).(*client); ok {
			c.at(true)
		}
		handler.ServeHTTP(w, r)
	})
}
