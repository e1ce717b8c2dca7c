// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// Locks keep the meshnetd processes of one node apart, by locks on bytes of two files. Only root can reach their
// directory, since whoever can open a file can lock it. The files are never removed: a new file would not have the locks
// that are held on the old one.
type Locks struct {
	path string
	dir  int // descriptor
}

// The files: each namespace has a byte in the first one, each daemon one in the second.
const (
	namespacesFile = "namespaces"
	daemonsFile    = "daemons"
)

// ErrHeld is within the error about a lock that somebody else holds.
var ErrHeld = errors.New("is held by")

// lockWait is how long a hook waits for a namespace's lock. NRI asks about one pod at a time, so all others wait as well.
// Work on a namespace takes a fraction of this.
const lockWait = 250 * time.Millisecond

// MakeLocks makes the directory where it is missing, for root alone, and opens it. It fails where somebody else owns it,
// could write there, or could put another one in its place.
func MakeLocks(path string) (*Locks, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("directory for locks: %w; make it for root alone (mkdir -m 0700 %s), or name another one by lock_dir", err, path)
	}
	l, err := OpenLocks(path)
	if err != nil {
		return nil, err
	}
	// A directory that Kubernetes made is readable by everybody, and writable by root alone.
	if err := unix.Fchmod(l.dir, 0o700); err != nil {
		l.Close()
		return nil, fmt.Errorf("directory for locks: chmod 0700 %s: %w", path, err)
	}
	return l, nil
}

// OpenLocks opens a directory that is there, and changes nothing.
func OpenLocks(path string) (*Locks, error) {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is to be the directory for locks, and is a file or a link: take it away, and see who made it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("directory for locks: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	l := &Locks{path: path, dir: dir}
	if err := l.check(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Locks) check() error {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Fstat(l.dir, &own), unix.Stat(filepath.Dir(l.path), &parent)); err != nil {
		return fmt.Errorf("directory for locks %s: %w", l.path, err)
	}
	root := uint32(os.Geteuid())
	switch {
	case own.Uid != root:
		return fmt.Errorf("%s is to be the directory for locks, and belongs to uid %d instead of %d: take it away, and see who made it", l.path, own.Uid, root)
	case own.Mode&0o022 != 0:
		return fmt.Errorf("%s is to be the directory for locks, and others than its owner can write there (mode %#o): take it away, and see who made it", l.path, own.Mode&0o7777)
	case parent.Uid != root && parent.Uid != 0, parent.Mode&0o022 != 0 && parent.Mode&unix.S_ISVTX == 0:
		return fmt.Errorf("%s is to be the directory for locks, and others than root can put another one in its place: name one by lock_dir whose parent is root's", l.path)
	}
	return nil
}

// Directory returns the directory, which root alone reaches.
func (l *Locks) Directory() string { return l.path }

// Close releases the directory; locks that are held stay.
func (l *Locks) Close() { _ = unix.Close(l.dir) }

// open opens one of the files, each time anew: a lock belongs to what was opened, so that it excludes others of this
// process too.
func (l *Locks) open(name string, flags int) (fd int, err error) {
	err = netlink.Retried(func() error {
		fd, err = unix.Openat(l.dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: filepath.Join(l.path, name), Err: err}
	}
	return fd, nil
}

// Lock keeps other meshnetd processes out of the namespace until the returned function is called: a daemon that is being
// replaced, or `meshnetd apply`. Where somebody has the lock for longer than a pod can wait, it fails with ErrHeld. There
// is no queue: whoever asks first once it is free gets it, which is enough for rare and short work.
func (l *Locks) Lock(ctx context.Context, n *Namespace) (unlock func(), err error) {
	fd, err := l.open(namespacesFile, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", n.path, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	const shortest, longest = time.Millisecond, 16 * time.Millisecond
	limit := time.Now().Add(lockWait)
	for pause := shortest; ; pause = min(2*pause, longest) {
		taken, err := take(fd, n.lockByte())
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", n.path, err)
		}
		if taken {
			n.sign(fd)
			return func() { n.unsign(fd); _ = unix.Close(fd) }, nil
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("the lock on %s %w %s", n.path, ErrHeld, n.signer(fd))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the lock on %s %w %s: %w", n.path, ErrHeld, n.signer(fd), ctx.Err())
		case <-time.After(pause):
		}
	}
}

// lockByte is the namespace's byte: its inode, which no other namespace of the kernel has as long as this one exists.
func (n *Namespace) lockByte() int64 { return int64(n.id.Ino & math.MaxInt64) }

// take locks a byte, and reports whether it was free.
func take(fd int, at int64) (taken bool, err error) {
	err = netlink.Retried(func() error {
		return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1})
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// The kernel does not tell who holds a lock of this kind, so the holder writes its name into the file: in one of a few
// slots that namespaces share, so that the file stays small.
const (
	signatures      = 64
	signatureLength = 128
)

func (n *Namespace) signatureAt() int64 { return n.lockByte() % signatures * signatureLength }

// sign writes the holder's name for whoever waits. The lock holds even if that fails.
func (n *Namespace) sign(fd int) {
	who := fmt.Sprintf("process %d", os.Getpid())
	if pids, err := os.Readlink("/proc/thread-self/ns/pid"); err == nil {
		who += " of " + pids
	}
	text := fmt.Sprintf("%s %s since %s", n.id, who, time.Now().UTC().Format(time.RFC3339))
	_, _ = unix.Pwrite(fd, fmt.Appendf(nil, "%-*.*s\n", signatureLength-1, signatureLength-1, text), n.signatureAt())
}

func (n *Namespace) unsign(fd int) {
	_, _ = unix.Pwrite(fd, fmt.Appendf(nil, "%*s\n", signatureLength-1, ""), n.signatureAt())
}

// signer reads what sign wrote.
func (n *Namespace) signer(fd int) string {
	text := make([]byte, signatureLength)
	length, err := unix.Pread(fd, text, n.signatureAt())
	who, known := strings.CutPrefix(string(text[:max(length, 0)]), n.id.String()+" ")
	if who = strings.TrimSpace(who); err == nil && known && who != "" {
		return "meshnetd's " + who
	}
	return "another meshnetd"
}

// Announce tells other meshnetd daemons that this one runs, until the returned function is called or the process ends.
func (l *Locks) Announce() (leave func(), err error) {
	fd, err := l.open(daemonsFile, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, fmt.Errorf("announce this daemon to others: %w", err)
	}
	for {
		taken, err := take(fd, rand.Int64N(math.MaxInt64))
		if err != nil {
			_ = unix.Close(fd)
			return nil, fmt.Errorf("announce this daemon to others: %w", err)
		}
		if taken { // else another daemon has that byte
			return func() { _ = unix.Close(fd) }, nil
		}
	}
}

// OtherDaemons reports whether more than one daemon is announced here; false where that cannot be read.
func (l *Locks) OtherDaemons() bool {
	fd, err := l.open(daemonsFile, unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	begin, end, held := heldWithin(fd, 0, math.MaxInt64)
	if !held {
		return false
	}
	_, _, before := heldWithin(fd, 0, begin)
	_, _, behind := heldWithin(fd, end, math.MaxInt64)
	return before || behind
}

// heldWithin returns a lock that is held on a part of a file, between two bytes.
func heldWithin(fd int, from, to int64) (begin, end int64, held bool) {
	if from >= to {
		return 0, 0, false
	}
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: from, Len: to - from}
	err := netlink.Retried(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock) })
	return lock.Start, lock.Start + lock.Len, err == nil && lock.Type != unix.F_UNLCK
}
