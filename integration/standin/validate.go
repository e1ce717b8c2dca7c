// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// validation is what Istio's istio-validation container and Kuma's kuma-validation ask of a pod, step by step: a
// connection over lo to a loopback address that is not the app's must come to one of the proxy's ports, and remember
// its port.
type validation struct {
	local, probe netip.Addr
	ports        []int // the proxy's, of which one at least must be free
	probePort    uint16
}

func runValidate(ctx context.Context, args []string, out *journal) error {
	flags := flag.NewFlagSet("validate", flag.ContinueOnError)
	outbound := flags.Int("outbound", 15001, "the proxy's outbound port")
	inbound := flags.Int("inbound", 15006, "the proxy's inbound port")
	flags.IntVar(outbound, "p", *outbound, "--outbound, as istio-iptables calls it")
	flags.IntVar(inbound, "z", *inbound, "--inbound, as istio-iptables calls it")
	probe := flags.Uint("probe", 15002, "port that is dialled")
	mesh := flags.String("mesh", "istio", "whose validation: istio, kuma or linkerd")
	six := flags.Bool("ipv6", false, "ask over IPv6")
	timeout := flags.Duration("timeout", 5*time.Second, "limit for all of it")
	if _, err := parseMixed(flags, args, 0, "validate [--mesh M] [--outbound P] [--inbound P] [--probe P] [--ipv6] [--timeout D]"); err != nil {
		return err
	}
	v := validation{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.6"), []int{*outbound, *inbound}, uint16(*probe)}
	if *six {
		v.local, v.probe = netip.IPv6Loopback(), netip.MustParseAddr("::6")
	}
	validate := v.run
	switch *mesh {
	case "istio":
	case "kuma": // which listens where inbound traffic goes only, and dials any high port
		v.ports, v.probePort = []int{*inbound}, uint16(20000+rand.IntN(40000))
		validate = v.run
	case "linkerd":
		validate = answers{port: 4140, six: *six}.run
	default:
		return fmt.Errorf("--mesh %q is not istio, kuma or linkerd", *mesh)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	e, err := validate(ctx)
	if err != nil {
		out.write(event{Event: "failed", Error: err.Error()})
		return errReported
	}
	out.write(e)
	return nil
}

// run listens, and dials each second until a connection comes to one of the ports with the port that was dialled.
func (v validation) run(ctx context.Context) (event, error) {
	seen := make(chan event, len(v.ports))
	var missing []error
	for _, port := range v.ports {
		if err := v.listen(ctx, port, seen); err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == len(v.ports) {
		return event{}, fmt.Errorf("no port can be listened on: %w", errors.Join(missing...))
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(v.local, 0))}
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(v.probe, v.probePort).String())
		if err == nil {
			defer conn.Close()
		}
		select {
		case e := <-seen:
			return e, nil
		case <-ctx.Done():
			return event{}, fmt.Errorf("no connection came with port %d: %w", v.probePort, errors.Join(err, ctx.Err()))
		case <-again.C:
		}
	}
}

// listen tells of the first connection to a port whose original destination has the port that is dialled.
func (v validation) listen(ctx context.Context, port int, seen chan<- event) error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return setOptions(c, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	}}
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(v.local.String(), strconv.Itoa(port)))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			dst, err := originalDst(conn)
			_ = conn.Close()
			if err == nil && dst.Port() == v.probePort {
				seen <- event{Event: "validated", Listener: strconv.Itoa(port), OriginalDst: dst.String(), Peer: conn.RemoteAddr().String()}
				return
			}
		}
	}()
	return nil
}
