// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

func TestDaemonsSeeEachOther(t *testing.T) {
	nstest.Require(t)
	ns, err := New() // a daemon may run on this machine
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		for _, want := range []bool{false, true} {
			leave, err := Announce()
			if err != nil {
				return err
			}
			defer leave()
			if got := Others(); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
