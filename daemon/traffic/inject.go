// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// injector makes the kernel receive frames on an interface of the calling thread's namespace, as if they had
// come by its cable: the test run of an XDP program that lets everything pass (BPF_F_TEST_XDP_LIVE_FRAMES,
// since Linux 5.18). The program is attached to nothing.
type injector struct{ program int }

// The numbers of include/uapi/linux/bpf.h that are used.
const (
	bpfLoad       = 5
	bpfTestRun    = 10
	bpfTypeXDP    = 6
	bpfLiveFrames = 1 << 1
	xdpPass       = 2
)

// pass is "r0 = XDP_PASS; exit".
var pass = [2]uint64{0xb7 | xdpPass<<32, 0x95}

func openInjector() (*injector, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	attr := struct {
		kind, count    uint32
		code, license  uint64
		level, logSize uint32
		log            uint64
		kernel, flags  uint32
		name           [16]byte
	}{kind: bpfTypeXDP, count: uint32(len(pass)), code: address(&pass), license: address(&license)}
	fd, err := bpf(bpfLoad, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(&license)
	if err != nil {
		return nil, fmt.Errorf("load an XDP program (CAP_BPF and CAP_NET_ADMIN are needed): %w", err)
	}
	return &injector{program: fd}, nil
}

func (i *injector) Close() { _ = unix.Close(i.program) }

// inject returns when the kernel has taken the frame in.
func (i *injector) inject(ifindex int, frame []byte) error {
	context := struct{ data, end, meta, ifindex, queue, egress uint32 }{end: uint32(len(frame)), ifindex: uint32(ifindex)}
	attr := struct {
		program, result  uint32
		sizeIn, sizeOut  uint32
		dataIn, dataOut  uint64
		repeat, duration uint32
		ctxIn, ctxOut    uint32
		ctx, ctxBack     uint64
		flags, cpu       uint32
		batch, _         uint32
	}{program: uint32(i.program), sizeIn: uint32(len(frame)), dataIn: address(&frame[0]), repeat: 1,
		ctxIn: uint32(unsafe.Sizeof(context)), ctx: address(&context), flags: bpfLiveFrames}
	_, err := bpf(bpfTestRun, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(frame)
	runtime.KeepAlive(&context)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("let a packet arrive: %w (Linux 5.18 is needed)", err)
	}
	if err != nil {
		return fmt.Errorf("let a packet arrive: %w", err)
	}
	return nil
}

func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	result, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return 0, errno
	}
	return int(result), nil
}
