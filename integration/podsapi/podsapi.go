// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package podsapi serves pods as the Pods API of a kubelet of 1.37 does, in place of a kubelet.
package podsapi

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meshnetd/meshnetd/internal/wire"
)

// Kind is what happened to a pod of the watch.
type Kind int

// The kinds, as the API counts them.
const (
	Added Kind = iota + 1
	Modified
	Deleted
	Synced
)

// Send sends one event of the watch; Synced has no pod.
type Send func(kind Kind, pod []byte) error

// Server is a kubelet that tells what its user has it tell.
type Server struct {
	Socket string
	Watch  func(send Send, ctx context.Context) error
	Get    func(ctx context.Context, uid string) ([]byte, error) // nil knows no pod

	mu    sync.Mutex
	asked int
	grpc  *grpc.Server
}

// Start serves until Stop.
func (s *Server) Start() error {
	listener, err := net.Listen("unix", s.Socket)
	if err != nil {
		return err
	}
	s.grpc = grpc.NewServer()
	s.grpc.RegisterService(&grpc.ServiceDesc{ServiceName: "v1alpha1.Pods", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "GetPod", Handler: s.getPod}},
		Streams: []grpc.StreamDesc{{StreamName: "WatchPods", ServerStreams: true, Handler: s.watchPods}},
	}, nil)
	go func() { _ = s.grpc.Serve(listener) }()
	return nil
}

// Stop ends it, and takes the socket away.
func (s *Server) Stop() { s.grpc.Stop() }

// Questions is how often a single pod was asked for.
func (s *Server) Questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *Server) getPod(_ any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	request, uid := &emptypb.Empty{}, ""
	if err := read(request); err != nil {
		return nil, err
	}
	if err := wire.Each(request.ProtoReflect().GetUnknown(), func(f wire.Field) error { uid = f.Text(); return nil }); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	if s.Get == nil {
		return nil, status.Error(codes.NotFound, uid)
	}
	pod, err := s.Get(ctx, uid)
	return of(Message(1, pod)), err
}

func (s *Server) watchPods(_ any, stream grpc.ServerStream) error {
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	return s.Watch(func(k Kind, pod []byte) error {
		if pod == nil {
			return stream.SendMsg(of(Message(1, int(k))))
		}
		return stream.SendMsg(of(Message(1, int(k), 2, pod)))
	}, stream.Context())
}

// of returns a message of these bytes: of one without fields all are unknown, and passed on.
func of(bytes []byte) *emptypb.Empty {
	m := &emptypb.Empty{}
	m.ProtoReflect().SetUnknown(bytes)
	return m
}

// Telling tells these pods, that they are all, and then waits until the client goes.
func Telling(pods ...[]byte) func(Send, context.Context) error {
	return func(send Send, ctx context.Context) error {
		for _, pod := range pods {
			if err := send(Added, pod); err != nil {
				return err
			}
		}
		if err := send(Synced, nil); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}
