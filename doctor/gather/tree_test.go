// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/doctor"
)

const mountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:26 / /run rw,nosuid shared:5 master:1 - tmpfs tmpfs rw
31 30 0:26 /netns /run/netns rw master:5 - tmpfs tmpfs rw
32 27 0:30 / /a\040b rw - tmpfs tmpfs rw
33 27 0:31 / /runaway rw - tmpfs tmpfs rw
broken line
34 27 - x
`

func TestMount(t *testing.T) {
	for dir, want := range map[string]doctor.Mount{
		"/run/netns":    {Point: "/run/netns", Propagation: "slave"},
		"/run/netns/x":  {Point: "/run/netns", Propagation: "slave"},
		"/run/netnsish": {Point: "/run", Propagation: "shared"},
		"/var/x":        {Point: "/", Propagation: "shared"},
		"/a b/c":        {Point: "/a b", Propagation: "private"},
	} {
		want.Dir = dir
		if diff := cmp.Diff(want, parseMount(mountinfo, dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dir, diff)
		}
	}
	if got := parseMount(mountinfo+"40 30 0:40 / /run rw - tmpfs tmpfs rw\n", "/run/x"); got.Propagation != "private" {
		t.Errorf("the one mounted last counts: %+v", got)
	}
	if got := parseMount("", "/run"); got.Point != "" || got.Propagation != "" {
		t.Errorf("nothing: %+v", got)
	}
}

// A container is one where process 1 is meshnetd, or has another root; a unit or shell with mounts of its own has the node's files.
func TestContained(t *testing.T) {
	const node, unit, container = "27 1 254:0 / / rw - ext4 /dev/vda rw\n", "90 89 254:0 / / rw master:1 - ext4 /dev/vda rw\n", "600 500 0:99 / / ro - overlay overlay ro\n"
	for name, tt := range map[string]struct {
		comm, first, self string
		alone, contained  bool
	}{
		"on the node":                  {"systemd", node, node, false, false},
		"with mounts of its own":       {"systemd", node, unit, false, false},
		"a DaemonSet":                  {"meshnetd", container, container, true, true},
		"with the node's processes":    {"systemd", node, container, false, true},
		"with its sandbox's processes": {"pause", "1 1 0:98 / / ro - overlay overlay ro\n", container, false, true},
	} {
		root := plant(t, map[string]string{"proc/1/comm": tt.comm + "\n", "proc/self/comm": "meshnetd\n", "proc/1/mountinfo": tt.first, "proc/self/mountinfo": tt.self})
		if alone, contained := root.contained(); alone != tt.alone || contained != tt.contained {
			t.Errorf("%s: alone %t, contained %t", name, alone, contained)
		}
	}
	if alone, contained := plant(t, nil).contained(); alone || contained {
		t.Error("where nothing can be seen")
	}
}

// /var/run is a link on every node, and the directory may not be there yet.
func TestMountOfLink(t *testing.T) {
	root := plant(t, map[string]string{"proc/1/mountinfo": mountinfo, "run/keep": "", "var/keep": ""})
	if err := os.Symlink("../run", filepath.Join(string(root), "var", "run")); err != nil {
		t.Fatal(err)
	}
	want := doctor.Mount{Dir: "/run/netns", Point: "/run/netns", Propagation: "slave"}
	if diff := cmp.Diff(want, root.mountOf(1, "/var/run/netns")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := root.mountOf(2, "/run"); got.Propagation != "" {
		t.Errorf("of no process: %+v", got)
	}
}

func TestStarted(t *testing.T) {
	const machine = "cpu 1 2\nintr 1\nbtime 1700000000\nprocesses 1\n"
	const stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 12345 20 21"
	want := time.Unix(1700000123, 0)
	if got := parseStarted(stat, machine); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range [][2]string{{"", machine}, {stat, ""}, {"7 (a) S 1", machine}, {stat, "\nbtime x\n"}, {"(", "\nbtime 1"}} {
		if got := parseStarted(bad[0], bad[1]); !got.IsZero() {
			t.Errorf("%q: %v", bad, got)
		}
	}
	if got := tree("").started(os.Getpid()); time.Since(got) > time.Hour || time.Since(got) < -time.Minute {
		t.Errorf("this process was started %v", got)
	}
}

func TestProcess(t *testing.T) {
	root := plant(t, map[string]string{
		"proc/7/status":        "Name:\tmeshnetd\nCapEff:\t0000000000201000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n",
		"proc/7/oom_score_adj": "-900\n", "proc/7/mountinfo": mountinfo, "proc/7/ns/x": "", "proc/1/ns/x": "",
	})
	for link, to := range map[string]string{"1/ns/mnt": "mnt:[1]", "7/ns/mnt": "mnt:[2]", "1/ns/net": "net:[1]", "7/ns/net": "net:[1]", "7/ns/pid": "pid:[3]"} {
		if err := os.Symlink(to, filepath.Join(string(root), "proc", link)); err != nil {
			t.Fatal(err)
		}
	}
	want := &doctor.Process{PID: 7, Capabilities: 1<<12 | 1<<21, NoNewPrivs: true, Seccomp: 2, OOM: -900, OwnMounts: true,
		Mount: doctor.Mount{Dir: "/run/netns", Point: "/run/netns", Propagation: "slave"}}
	if diff := cmp.Diff(want, root.process(7, "/run/netns")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := root.process(8, "/"); got != nil {
		t.Errorf("no process: %+v", got)
	}
}

func TestNetworks(t *testing.T) {
	root := plant(t, map[string]string{
		"net.d/10.conflist": `{"plugins":[{"type":"bridge"},{"type":"istio-cni"}]}`,
		"net.d/20.conf":     `{"type":"linkerd-cni"}`,
		"net.d/30.json":     `{`,
		"net.d/README":      "no",
		"bin/istio-cni":     "#!/bin/sh", "bin/bridge": "#!/bin/sh", "bin/kuma-cni": "not executable",
	})
	got, err := root.networks("/net.d")
	if err != nil || len(got) != 3 || got[2].Err == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	got[2].Err = nil
	want := []doctor.Network{{File: "/net.d/10.conflist", Plugins: []string{"bridge", "istio-cni"}}, {File: "/net.d/20.conf", Plugins: []string{"linkerd-cni"}},
		{File: "/net.d/30.json"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := root.networks("/nowhere"); err != nil || got != nil {
		t.Errorf("no directory: %v, %v", got, err)
	}
	if _, err := root.networks("/net.d/README"); err == nil {
		t.Error("a file is no directory")
	}
	if diff := cmp.Diff([]string{"/bin/istio-cni"}, root.meshPrograms([]string{"/bin", "/nowhere"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestModules(t *testing.T) {
	root := plant(t, map[string]string{
		"proc/modules":                     "nf_tables 1 2 - Live 0x0\nother 1\n",
		"lib/modules/6.1/modules.builtin":  "kernel/net/netfilter/xt_owner.ko\nkernel/net/ipv4/nft-compat.ko\n",
		"proc/sys/kernel/modules_disabled": "1\n",
	})
	k := doctor.Kernel{Release: "6.1"}
	modules(root, &k, []string{"nf_tables", "nft_compat", "nft_ct", "xt_owner"})
	if diff := cmp.Diff([]string{"nf_tables", "nft_compat", "xt_owner"}, k.Modules); diff != "" || !k.Locked {
		t.Errorf("%+v", k)
	}
	if diff := cmp.Diff([]string{"nft_ct"}, k.Missing); diff != "" {
		t.Errorf("missing: %v", k.Missing)
	}
}

func FuzzMount(f *testing.F) {
	f.Add(mountinfo, "/run/netns")
	f.Add("1 2 3 4 \\0 rw - x", "/")
	f.Fuzz(func(t *testing.T, text, dir string) {
		if m := parseMount(text, dir); (m.Point == "") != (m.Propagation == "") {
			t.Errorf("%+v", m)
		}
		parseStarted(text, dir)
		parseProcess(text)
	})
}

func FuzzNetwork(f *testing.F) {
	f.Add([]byte(`{"plugins":[{"type":"bridge"}]}`))
	f.Add([]byte(`[{"type":1}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if types, err := parseNetwork(raw); err != nil && types != nil {
			t.Errorf("%v, %v", types, err)
		}
	})
}
