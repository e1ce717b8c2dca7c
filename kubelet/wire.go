// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/internal/wire"
)

// The service, its methods and its messages' fields, as k8s.io/kubelet/pkg/apis/pods/v1alpha1 has them.
const (
	watchPods = "/v1alpha1.Pods/WatchPods"
	getPod    = "/v1alpha1.Pods/GetPod"

	fieldUID      = 1 // of GetPodRequest
	fieldPod      = 1 // of GetPodResponse
	fieldKind     = 1 // of WatchPodsEvent
	fieldEventPod = 2
	fieldStatus   = 3 // of a v1.Pod
	fieldPhase    = 1 // of its status
)

// longestMessage is how many bytes one may have: several times what the API server takes of a pod, since the kubelet adds a
// status of its own, which says of each container again what its image is called, and why that cannot be pulled. A longer one
// would end the watch, for all pods.
const longestMessage = 16 << 20

type kind uint64

const (
	added    kind = 1
	modified kind = 2
	deleted  kind = 3
	synced   kind = 4
)

// event is one of the watch.
type event struct {
	kind kind
	pod  []byte
}

// raw passes messages as the bytes that they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return *message, nil
}

func (raw) Unmarshal(data []byte, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	*message = data
	return nil
}

// dial connects to a socket that root listens on: anybody else's word counts for nothing.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:kubelet", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(longestMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			if err := roots(conn); err != nil {
				conn.Close()
				return nil, fmt.Errorf("%s: %w", socket, err)
			}
			return conn, nil
		}))
}

// roots returns an error unless root listens at the other end.
func roots(conn net.Conn) error {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("no unix socket")
	}
	control, err := unixConn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if err2 := control.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err2 != nil {
		return err2
	}
	if err == nil && peer.Uid != 0 {
		err = fmt.Errorf("user %d listens there, and a kubelet is root", peer.Uid)
	}
	return err
}

// get asks for one pod.
func get(ctx context.Context, conn *grpc.ClientConn, uid string) (pod []byte, err error) {
	request := protowire.AppendString(protowire.AppendTag(nil, fieldUID, protowire.BytesType), uid)
	var answer []byte
	if err := conn.Invoke(ctx, getPod, &request, &answer); err != nil {
		return nil, err
	}
	err = wire.Each(answer, func(f wire.Field) error {
		if f.Number == fieldPod {
			pod = f.Bytes
		}
		return nil
	})
	return pod, err
}

// watch asks for every pod and every change, and returns what waits for the next of them.
func watch(ctx context.Context, conn *grpc.ClientConn) (next func() (event, error), err error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watchPods)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(stream.SendMsg(&[]byte{}), stream.CloseSend()); err != nil {
		return nil, err
	}
	return func() (e event, err error) {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return event{}, err
		}
		err = wire.Each(message, func(f wire.Field) error {
			switch f.Number {
			case fieldKind:
				e.kind = kind(f.Varint)
			case fieldEventPod:
				e.pod = f.Bytes
			}
			return nil
		})
		return e, err
	}, nil
}

// over reports whether a pod has ended, as its status says: none of its containers is started any more.
func over(pod []byte) (ended bool) {
	_ = wire.Each(pod, func(f wire.Field) error { // what cannot be read is said elsewhere
		if f.Number != fieldStatus {
			return nil
		}
		return wire.Each(f.Bytes, func(f wire.Field) error {
			if f.Number == fieldPhase {
				ended = slices.Contains([]string{"Succeeded", "Failed"}, string(f.Bytes))
			}
			return nil
		})
	})
	return ended
}
