// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/internal/wire"
)

// server is a kubelet that serves its Pods API as one of 1.37 does, and tells what a test has it tell.
type server struct {
	socket string
	watch  func(send func(kind, []byte) error, ctx context.Context) error
	get    func(ctx context.Context, uid string) ([]byte, error)

	mu    sync.Mutex
	asked []string
	grpc  *grpc.Server
}

// message has bytes in its fields, by number.
func message(parts ...any) (all []byte) {
	for i := 0; i < len(parts); i += 2 {
		number := protowire.Number(parts[i].(int))
		switch value := parts[i+1].(type) {
		case string:
			all = protowire.AppendString(protowire.AppendTag(all, number, protowire.BytesType), value)
		case []byte:
			all = protowire.AppendBytes(protowire.AppendTag(all, number, protowire.BytesType), value)
		case int:
			all = protowire.AppendVarint(protowire.AppendTag(all, number, protowire.VarintType), uint64(value))
		}
	}
	return all
}

// podOf is the message of a pod with one container that runs as a user.
func podOf(uid string, user int) []byte {
	return message(1, message(1, "pod-"+uid, 3, "shop", 5, uid), 2, message(2, message(1, "app", 15, message(4, user))))
}

func (s *server) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}))
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "v1alpha1.Pods", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "GetPod", Handler: func(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var request []byte
			if err := read(&request); err != nil {
				return nil, err
			}
			uid := ""
			if err := wire.Each(request, func(f wire.Field) error { uid = f.Text(); return nil }); err != nil {
				return nil, err
			}
			s.mu.Lock()
			s.asked = append(s.asked, uid)
			s.mu.Unlock()
			if s.get == nil {
				return nil, status.Error(codes.NotFound, uid)
			}
			pod, err := s.get(ctx, uid)
			answer := message(1, pod)
			return &answer, err
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "WatchPods", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			var request []byte
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			return s.watch(func(k kind, pod []byte) error {
				event := message(1, int(k))
				if pod != nil {
					event = message(1, int(k), 2, pod)
				}
				return stream.SendMsg(&event)
			}, stream.Context())
		}}},
	}, nil)
	s.grpc = server
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
}

func (s *server) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// socketPath is one that is short enough for the kernel.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pods")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// telling tells these pods, that they are all, and then waits until the client goes.
func telling(pods ...[]byte) func(func(kind, []byte) error, context.Context) error {
	return func(send func(kind, []byte) error, ctx context.Context) error {
		for _, pod := range pods {
			if err := send(added, pod); err != nil {
				return err
			}
		}
		if err := send(synced, nil); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}
