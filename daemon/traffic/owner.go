// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// as calls fn with new sockets of the calling thread belonging to another user and group: netfilter looks at the
// file-system ids of whoever opened the socket. The thread must be locked, as within netns.Namespace.Do. Where it cannot get
// its own ids back, it stays locked and ends with its goroutine.
func as(uid, gid uint32, fn func() error) error {
	runtime.LockOSThread() // once more than the caller has
	own, err := threadIDs()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	if err = become(ids{int(uid), int(gid)}); err == nil {
		err = fn()
	}
	if back := become(own); back != nil {
		return errors.Join(err, fmt.Errorf("give the thread its own ids back: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

type ids struct{ uid, gid int }

// none is no id: setfsuid(2) then only tells the present one.
const none = -1

func threadIDs() (ids, error) {
	uid, err1 := unix.SetfsuidRetUid(none)
	gid, err2 := unix.SetfsgidRetGid(none)
	return ids{uid, gid}, errors.Join(err1, err2)
}

// become changes the ids of the thread; the system calls do not say whether they did.
func become(want ids) error {
	if err := errors.Join(unix.Setfsgid(want.gid), unix.Setfsuid(want.uid)); err != nil {
		return err
	}
	have, err := threadIDs()
	if err == nil && have != want {
		err = fmt.Errorf("user %d and group %d cannot be taken (CAP_SETUID and CAP_SETGID are needed)", want.uid, want.gid)
	}
	return err
}
