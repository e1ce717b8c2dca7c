// SPDX-License-Identifier: Apache-2.0

//go:build linux

package receipts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

var one = Receipt{netns.ID{Dev: 4, Ino: 4026532000}, "0123abcd"}

func TestReceipt(t *testing.T) {
	d := In(t.TempDir())
	if r := d.Read("a"); r != (Receipt{}) {
		t.Errorf("reads %v, which is not there", r)
	}
	other := one
	other.Plan = "other"
	for _, r := range []Receipt{one, other, other} {
		d.Write("a", r)
		if got := d.Read("a"); got != r {
			t.Errorf("wrote %v, reads %v", r, got)
		}
	}
	if all := d.Of(other.NetNS); len(all) != 1 || all[0] != other || len(d.Of(netns.ID{Dev: 4, Ino: 1})) != 0 {
		t.Errorf("of the namespace: %v", all)
	}
	if d.Remove("a"); len(d.ids()) > 0 {
		t.Errorf("left: %v", d.ids())
	}
}

// A receipt of an earlier version has half of a key.
func TestNames(t *testing.T) {
	key := strings.Repeat("0123", 8)
	for plan, want := range map[string]bool{key: true, key[:16]: true, "": false, key[:15]: false, key[:17]: false, strings.Repeat("0", 32): false} {
		if got := (Receipt{Plan: plan}).Names(key); got != want {
			t.Errorf("%q: %t", plan, got)
		}
	}
}

// Nobody but their owner reaches them, and no name of a sandbox leads out of their directory.
func TestReceiptsAreRootsAlone(t *testing.T) {
	parent := t.TempDir()
	d := In(parent)
	for _, id := range []string{"a", "", ".", "..", "../b", "b/c", ".hidden", strings.Repeat("x", 129), "a\nb"} {
		d.Write(id, one)
		if got := d.Read(id) == one; got != (id == "a") {
			t.Errorf("%q: %v", id, got)
		}
	}
	if ids := d.ids(); len(ids) != 1 {
		t.Errorf("files: %q", ids)
	}
	if beside, err := os.ReadDir(parent); err != nil || len(beside) != 1 {
		t.Errorf("beside the directory: %v, %v", beside, err)
	}
	for path, want := range map[string]os.FileMode{string(d): 0o700, filepath.Join(string(d), "a"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// What is damaged, cut off, too long or of another format is none.
func TestDamagedReceipt(t *testing.T) {
	d := In(t.TempDir())
	d.Write("a", one)
	path, _ := d.file("a")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "1", string(whole[:len(whole)-3]), "2" + string(whole[1:]), "1 x y z .", "1 4 5 " + strings.Repeat("k", 300) + " ."} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := d.Read("a"); r != (Receipt{}) {
			t.Errorf("%q is read as %v", text, r)
		}
	}
}

// One that cannot be written is none, and not that of an earlier plan.
func TestReceiptThatCannotBeWritten(t *testing.T) {
	d := In(t.TempDir())
	d.Write("a", one)
	path, _ := d.file("a")
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	d.Write("a", one)
	if r := d.Read("a"); r != (Receipt{}) {
		t.Errorf("reads %v", r)
	}
}

func TestKeep(t *testing.T) {
	d := In(t.TempDir())
	for _, id := range []string{"there", "gone", "new"} {
		d.Write(id, one)
		if path, _ := d.file(id); id != "new" {
			before := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, before, before); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.Keep(map[string]bool{"there": true})
	if got := strings.Join(d.ids(), " "); got != "new there" {
		t.Errorf("kept %q", got)
	}
}
