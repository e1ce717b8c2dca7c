// SPDX-License-Identifier: Apache-2.0

// Command app is what tenants run beside a real proxy: something that is asked, or asks. What it sees it prints.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// limit is what a question and its answer may take.
const limit = 5 * time.Second

const usage = "usage: app pause | web NAME ADDR... | get URL | try URL | first URL"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "pause":
		<-ctx.Done()
		return nil
	case args[0] == "web" && len(args) > 2:
		return web(ctx, args[1], args[2:])
	case args[0] == "get" && len(args) == 2:
		return get(ctx, args[1])
	case args[0] == "try" && len(args) == 2: // asks once, and has done its work whatever comes of it
		try(ctx, args[1])
		return nil
	case args[0] == "first" && len(args) == 2: // asks before anything else, once, and stays
		try(ctx, args[1])
		<-ctx.Done()
		return nil
	default:
		return errors.New(usage)
	}
}

// web answers each request with who asked, and with the certificate of which a proxy tells.
func web(ctx context.Context, name string, addrs []string) error {
	server := &http.Server{ReadHeaderTimeout: limit, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("asked for %s%s by %s\n", r.Host, r.URL.Path, r.RemoteAddr)
		fmt.Fprintf(w, "%s peer=%s certificate=%s\n", name, r.RemoteAddr, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	served := make(chan error, len(addrs))
	for _, addr := range addrs {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		go func() { served <- server.Serve(listener) }()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func try(ctx context.Context, url string) {
	if err := get(ctx, url); err != nil {
		fmt.Println("failed:", err)
	}
}

// get asks once. Another status than 200 is a failure.
func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Close = true // a proxy logs a connection when it ends
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", answer.Status, line)
	}
	fmt.Print("answer: ", line)
	return err
}
