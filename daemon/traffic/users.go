// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// users tells the ids of this process's user namespace for those of the pod's, in which its rules are written.
type users struct {
	same     bool
	uid, gid []span // empty where they are not known
}

// span is a line of uid_map(5).
type span struct{ inside, outside, size uint64 }

var errNoUsers = errors.New("the pod has a user namespace of its own, and no process of it is seen here, so that its ids are not known: " +
	"run this where the host's processes are visible")

// usersOf finds out how the ids of a namespace are mapped, which a process shows that has them.
func usersOf(ns *netns.Namespace) (users, error) {
	if !ns.OwnUsers() {
		return users{same: true}, nil
	}
	id, err := ns.Users()
	if err != nil {
		return users{}, err
	}
	found, err := filepath.Glob("/proc/[0-9]*/ns/user")
	if err != nil {
		return users{}, err
	}
	for _, path := range found {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Dev != id.Dev || st.Ino != id.Ino {
			continue
		}
		process := strings.TrimSuffix(path, "ns/user")
		u := users{uid: readMap(process + "uid_map"), gid: readMap(process + "gid_map")}
		if len(u.uid) > 0 && len(u.gid) > 0 {
			return u, nil
		}
	}
	return users{}, nil
}

// readMap returns nothing for a process that has gone, or has no ids yet.
func readMap(path string) []span {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var all []span
	for line := range strings.Lines(string(text)) {
		var s span
		if n, _ := fmt.Sscan(line, &s.inside, &s.outside, &s.size); n == 3 {
			all = append(all, s)
		}
	}
	return all
}

// outside returns the ids here for those in the pod.
func (u users) outside(uid, gid uint32) (uint32, uint32, error) {
	if u.same {
		return uid, gid, nil
	}
	if len(u.uid) == 0 || len(u.gid) == 0 {
		return 0, 0, errNoUsers
	}
	user, ok1 := mapped(u.uid, uid)
	group, ok2 := mapped(u.gid, gid)
	if !ok1 || !ok2 {
		return 0, 0, fmt.Errorf("user %d or group %d does not exist in the pod's user namespace", uid, gid)
	}
	return user, group, nil
}

func mapped(spans []span, id uint32) (uint32, bool) {
	for _, s := range spans {
		if n := uint64(id); n >= s.inside && n-s.inside < s.size {
			return uint32(s.outside + n - s.inside), true
		}
	}
	return 0, false
}
