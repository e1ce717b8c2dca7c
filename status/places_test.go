// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose clients come from wherever they say.
type pipes struct {
	come chan net.Conn
	done <-chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.come:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return nil }

type from struct {
	net.Conn
	remote, local string
}

func (f from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.remote))
}
func (f from) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.local)) }

// dial connects from that address.
func (p pipes) dial(address string) net.Conn {
	server, client := net.Pipe()
	p.come <- from{server, address, "10.0.0.1:15990"}
	return client
}

// scrape asks for a page from that address, and returns how long it took.
func (p pipes) scrape(address string) (took time.Duration, err error) {
	began := time.Now()
	conn := p.dial(address)
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, "GET /big HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n") }()
	text, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(text), "200 OK") {
		err = fmt.Errorf("answer %.40q", text)
	}
	return time.Since(began), err
}

// Hundreds of clients that say nothing, say half of it, or do not take their answer, from one address or from hundreds,
// hold up nobody who says what he wants: by a fake clock, he waits for no moment.
func TestSlowClientsHoldUpNobody(t *testing.T) {
	slow := map[string]func(net.Conn){
		"silent":     func(net.Conn) {},
		"half":       func(c net.Conn) { _, _ = io.WriteString(c, "GET /big HT") },
		"not taking": func(c net.Conn) { _, _ = io.WriteString(c, "GET /big HTTP/1.1\r\nHost: m\r\n\r\n") },
	}
	sources := map[string]func(int) string{
		"one address":      func(i int) string { return fmt.Sprint("10.1.0.1:", 1000+i) },
		"many addresses":   func(i int) string { return fmt.Sprintf("10.1.%d.%d:1000", i/100, i%100) },
		"the node":         func(i int) string { return fmt.Sprint("127.0.0.1:", 1000+i) },
		"its own address":  func(i int) string { return fmt.Sprint("10.0.0.1:", 1000+i) },
		"addresses of lo":  func(i int) string { return fmt.Sprintf("127.0.%d.%d:1000", i/100, 1+i%100) },
		"mapped addresses": func(i int) string { return fmt.Sprintf("[::ffff:10.1.%d.%d]:1000", i/100, i%100) },
	}
	for what, behave := range slow {
		for where, source := range sources {
			t.Run(what+" from "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, stop := context.WithCancel(t.Context())
					p := pipes{make(chan net.Conn), ctx.Done()}
					big := Page{"/big", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						fmt.Fprint(w, strings.Repeat("x", 1<<16))
					})}
					ended := make(chan error)
					go func() { ended <- answerOn(ctx, p, muxOf([]Page{big})) }()
					var conns []net.Conn
					for i := range 300 {
						conn := p.dial(source(i))
						conns = append(conns, conn)
						go behave(conn)
						if i%50 == 0 {
							synctest.Wait()
						}
					}
					synctest.Wait()
					for _, address := range []string{"127.0.0.1:9", "10.0.0.1:9", "10.9.0.1:9", source(299)} {
						if took, err := p.scrape(address); err != nil || took != 0 {
							t.Errorf("from %s: after %s, %v", address, took, err)
						}
					}
					stop()
					if err := <-ended; err != nil {
						t.Error(err)
					}
					for _, conn := range conns {
						_ = conn.Close()
					}
				})
			})
		}
	}
}

// One address cannot have more than its places, nor can all others have those of the node; who is being answered keeps
// his place, and the next one waits.
func TestPlacesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := newPlaces(pipes{make(chan net.Conn), ctx.Done()}, ctx.Done())
		dial := func(address string) { p.Listener.(pipes).dial(address) }
		var accepted []*client
		accepting := make(chan error)
		go func() {
			for {
				conn, err := p.Accept()
				if err != nil {
					accepting <- err
					return
				}
				c := conn.(*client)
				c.at(true)
				accepted = append(accepted, c)
			}
		}()
		for i := range mostOfPeer {
			dial(fmt.Sprint("10.1.0.1:", 1000+i))
		}
		synctest.Wait()
		if len(accepted) != mostOfPeer {
			t.Fatalf("%d accepted", len(accepted))
		}
		dial("10.1.0.1:2000")
		synctest.Wait()
		if len(accepted) != mostOfPeer {
			t.Fatal("one more than its places")
		}
		first := accepted[0] // with its place given up another one is accepted
		if err := errors.Join(first.Close(), first.Close()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(accepted) != mostOfPeer+1 || len(p.clients) != mostOfPeer {
			t.Fatalf("%d accepted, %d have a place", len(accepted), len(p.clients))
		}
		for i := range mostRemote - mostOfPeer {
			dial(fmt.Sprintf("10.2.0.%d:1000", 1+i))
		}
		for i := range mostClients {
			dial(fmt.Sprint("127.0.0.1:", 1000+i))
		}
		synctest.Wait()
		if len(p.clients) != mostRemote+mostClients {
			t.Fatalf("%d have a place", len(p.clients))
		}
		accepted[3].at(false) // it does not take its answer
		dial("10.3.0.1:1000")
		synctest.Wait()
		if len(p.clients) != mostRemote+mostClients || !errors.Is(readNothing(accepted[3]), io.ErrClosedPipe) {
			t.Errorf("%d have a place", len(p.clients))
		}
		stop()
		if err := <-accepting; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

func readNothing(c *client) error {
	_, err := c.Read(make([]byte, 1))
	return err
}

// Who is at its answer keeps its place, however many others come that say nothing, and the other way round.
func TestPlacesOfBothKinds(t *testing.T) {
	for _, said := range []bool{true, false} {
		p := newPlaces(nil, nil)
		come := func(said bool) *client {
			server, other := net.Pipe()
			t.Cleanup(func() { _ = other.Close() })
			c := &client{Conn: server, of: p, local: true, said: said}
			if !p.place(c) {
				t.Fatal("no place")
			}
			return c
		}
		honest := come(said)
		for range 10 * mostClients {
			come(!said)
		}
		if !slices.Contains(p.clients, honest) || len(p.clients) != mostClients {
			t.Errorf("said %v: it lost its place among %d", said, len(p.clients))
		}
	}
}

// The same on real connections: 128 clients that say nothing, and everybody else is answered.
func TestSlowClientsOfTheMetrics(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	serving(t, func(ctx context.Context) error { return ServePages(ctx, address, hello) })
	get(t, "tcp", address, "/hello") // it listens
	for i := range 128 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%100))}}
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			if _, err := io.WriteString(conn, "GET /hello"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 10 {
		if code, body := get(t, "tcp", address, "/hello"); code != 200 || body != "hello" {
			t.Errorf("%d %s", code, body)
		}
	}
}
