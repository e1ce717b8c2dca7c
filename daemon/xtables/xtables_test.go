// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// scripts writes programs that stand in for iptables and returns their directory.
func scripts(t *testing.T, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func isolate(t *testing.T) *netns.Isolated {
	t.Helper()
	nstest.Require(t, "iptables-nft", "iptables-legacy")
	isolated, err := netns.Isolate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(isolated.Close)
	return isolated
}

func openNew(t *testing.T) *netns.Namespace {
	t.Helper()
	ns, err := netns.Open(nstest.New(t).Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	return ns
}

// A program that hangs is stopped with its children, in time.
func TestHungProgramIsStopped(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	dir := scripts(t, map[string]string{"iptables-save": "sleep 1000 & echo $$ $! >" + pids + "; wait"})
	tables := &Tables{isolated: isolate(t), variant: variant{v4: filepath.Join(dir, "iptables")}, noIPv6: errors.New("not needed")}
	ns := openNew(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := tables.Verify(ctx, ns, rules.Plan{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "iptables-save took too long") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for word := range strings.FieldsSeq(string(text)) {
		deadline := time.Now().Add(10 * time.Second)
		for alive(word) {
			if time.Now().After(deadline) {
				t.Fatalf("process %s is still there", word)
			}
			time.Sleep(time.Millisecond) // until init has reaped it
		}
	}
}

// alive reports whether a process exists and is more than a zombie.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// written proves by a small plan that rules are written.
func written(t *Tables) error {
	scratch, err := netns.New()
	if err != nil {
		return err
	}
	defer scratch.Close()
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Jump("PROBE"))
	b.Append("nat", "PROBE", "", rules.Redirect{Port: 1}, rules.Protocol(rules.TCP), rules.Not(rules.OwnerGID(1)))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4), Footprint: rules.Footprint{Chains: []string{"PROBE"}}}
	if _, err := t.Apply(context.Background(), scratch, plan); err != nil {
		return err
	}
	diffs, err := t.Verify(context.Background(), scratch, plan)
	if err == nil && len(diffs) > 0 {
		err = fmt.Errorf("rules written are not the rules read back: %s", diffs[0])
	}
	return err
}

// What iptables says, and about which rule, is in the error.
func TestRefusedRuleIsNamed(t *testing.T) {
	ns := openNew(t)
	for _, want := range []string{NFT, Legacy} {
		t.Run(want, func(t *testing.T) {
			tables, err := Find(t.Context(), want, isolate(t), written)
			if err != nil {
				t.Fatal(err)
			}
			var b rules.Builder
			b.Append("nat", "OUTPUT", "", rules.Return, rules.OutInterface("a-name-that-is-too-long"))
			_, err = tables.Apply(t.Context(), ns, rules.Plan{V4: b.Ruleset(rules.IPv4)})
			if err == nil || !strings.Contains(err.Error(), "-restore: exit status 2") || !strings.Contains(err.Error(), "a-name-that-is-too-long") {
				t.Errorf("got %v", err)
			}
			if !strings.HasPrefix(tables.Name(nil, rules.Plan{}), want+" 1.") {
				t.Errorf("name %q", tables.Name(nil, rules.Plan{}))
			}
		})
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	isolated := isolate(t)
	works := "echo 'iptables v1.8.9 (nf_tables)'"
	for name, tt := range map[string]struct {
		programs map[string]string
		want     string
	}{
		"another program": {map[string]string{"iptables-nft": "echo hello", "iptables-nft-save": "", "iptables-nft-restore": ""},
			`which is no version of iptables`},
		"other variant": {map[string]string{"iptables-nft": "echo 'iptables v1.8.9 (legacy)'", "iptables-nft-save": "", "iptables-nft-restore": ""},
			"is the other variant"},
		"no companion": {map[string]string{"iptables-nft": works, "iptables-nft-save": ""}, "iptables-nft-restore is not installed"},
		"kernel without the table": {map[string]string{"iptables-nft": works, "iptables-nft-save": "", "iptables-nft-restore": "echo no table nat >&2; exit 3"},
			"iptables-nft-restore: exit status 3: no table nat"},
		"writes nothing": {map[string]string{"iptables-nft": works, "iptables-nft-save": "", "iptables-nft-restore": "cat >/dev/null"},
			"rules written are not the rules read back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", scripts(t, tt.programs)+":/bin:/usr/bin")
			// Find would go on to the machine's own iptables, which has another name as well.
			tables, err := tablesOf(t.Context(), NFT, "iptables-nft", isolated)
			if err == nil {
				err = written(tables)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFindSaysWhatToInstall(t *testing.T) {
	_, err := Find(t.Context(), "iptables-of-tomorrow", isolate(t), written)
	if err == nil || !strings.Contains(err.Error(), "Install the iptables package") {
		t.Errorf("got %v", err)
	}
}

// The lock that others may hold on the node's tables does not keep a sandbox waiting.
func TestNodeLockIsNotTaken(t *testing.T) {
	isolated := isolate(t)
	fd, err := unix.Open("/run/xtables.lock", unix.O_CREAT|unix.O_RDONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := Find(ctx, Legacy, isolated, written); err != nil {
		t.Error(err)
	}
}

// A program that writes without end is not listened to without end, and one that takes memory does not take it all.
func TestProgramsAreBounded(t *testing.T) {
	tables := &Tables{isolated: isolate(t)}
	ns := openNew(t)
	if out, err := tables.run(t.Context(), ns, "/usr/bin/yes", ""); !errors.Is(err, nftables.ErrTooMuch) || !strings.Contains(err.Error(), "yes") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dir := scripts(t, map[string]string{"limit": `until [ "$(ulimit -v)" = 262144 ]; do :; done`, "complain": "yes 1>&2"})
	if _, err := tables.run(ctx, ns, filepath.Join(dir, "limit"), ""); err != nil {
		t.Error(err)
	}
	if _, err := tables.run(t.Context(), ns, filepath.Join(dir, "complain"), ""); err == nil || len(err.Error()) > 2*mostComplaint {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
}

// Programs are not asked about a namespace that holds more than anybody reads.
func TestRulesWithoutEnd(t *testing.T) {
	nstest.RequireRoot(t) // to send so much at once
	isolated := isolate(t)
	for _, variant := range []string{NFT, Legacy} {
		tables, err := Find(t.Context(), variant, isolated, written)
		if err != nil {
			t.Fatal(err)
		}
		s := nstest.New(t)
		ns, err := netns.Open(s.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		s.RunInput(t, "*mangle\n"+strings.Repeat("-A OUTPUT -s 10.0.0.1 -j ACCEPT\n", 40_000)+"COMMIT\n", variant+"-restore")
		for what, look := range map[string]func() error{
			"apply":  func() error { _, err := tables.Apply(t.Context(), ns, rules.Plan{}); return err },
			"verify": func() error { _, err := tables.Verify(t.Context(), ns, rules.Plan{}); return err },
			"own":    func() error { _, _, err := tables.Own(t.Context(), ns, rules.Footprint{}); return err },
		} {
			if err := look(); !errors.Is(err, nftables.ErrTooMuch) && !errors.Is(err, legacy.ErrTooMuch) {
				t.Errorf("%s, %s: got %v", variant, what, err)
			}
		}
	}
}
