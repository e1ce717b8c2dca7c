// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The process's first thread cannot be ended and is what /proc/self shows, so it never goes anywhere.
func TestFirstThreadStaysAtHome(t *testing.T) {
	ns := openNew(t)
	const visitors = 64 // more than there are idle threads, so that the first one would be taken too; this file's tests run before others that could
	var inside, done sync.WaitGroup
	inside.Add(visitors)
	for range visitors {
		done.Go(func() {
			err := ns.Do(func() error {
				inside.Done()
				inside.Wait()
				if unix.Gettid() == unix.Getpid() {
					return errors.New("the first thread is in the namespace")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
}
