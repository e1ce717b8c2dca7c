// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/doctor"
)

// plant makes a tree of these files.
func plant(t *testing.T, files map[string]string) tree {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return tree(root)
}

var (
	containerd24 = doctor.Runtime{Name: "containerd", Version: "v2.4.2"}
	containerd17 = doctor.Runtime{Name: "containerd", Version: "1.7.30"}
	crio136      = doctor.Runtime{Name: "cri-o", Version: "1.36.0"}
)

const (
	nriTable       = "[plugins.\"io.containerd.nri.v1.nri\"]\n"
	validatorTable = "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\n"
)

// What a configuration comes to is what `containerd config dump` says of it: see TestDoctor for the real one.
func TestContainerdSettings(t *testing.T) {
	for name, c := range map[string]struct {
		runtime doctor.Runtime
		files   map[string]string
		want    func(*doctor.Settings) // of what differs from the defaults
	}{
		"none": {containerd24, nil, func(s *doctor.Settings) { s.Missing, s.Files = true, nil }},
		"none of 1.7": {containerd17, nil, func(s *doctor.Settings) {
			s.Missing, s.Files, s.NRIDisabled = true, nil, true
		}},
		"none, with a drop-in": {containerd24, map[string]string{"etc/containerd/conf.d/a.toml": "version = 3\n" + validatorTable + "enable = true"},
			func(s *doctor.Settings) {
				s.Missing, s.Files, s.Unused = true, nil, []string{"/etc/containerd/conf.d/a.toml"}
			}},
		"empty": {containerd24, map[string]string{"etc/containerd/config.toml": "version = 3"}, func(*doctor.Settings) {}},
		"everything": {containerd24, map[string]string{"etc/containerd/config.toml": "version = 3\nstate = \"/s\"\n" + nriTable +
			"disable = true\ndisable_connections = true\nsocket_path = \"/n.sock\"\nplugin_path = \"/p\"\n" +
			"plugin_registration_timeout = \"3s\"\nplugin_request_timeout = 1000000000\n" + validatorTable +
			"enable = true\nrequired_plugins = [\"meshnetd\"]\nreject_namespace_adjustment = true\ntolerate_missing_plugins_annotation = \"t\"\n" +
			"[plugins.\"io.containerd.cri.v1.runtime\"]\nnetns_mounts_under_state_dir = true\n[plugins.\"io.containerd.cri.v1.runtime\".cni]\n" +
			"bin_dirs = [\"/b1\", \"/b2\"]\nconf_dir = \"/net.d\""},
			func(s *doctor.Settings) {
				s.NRIDisabled, s.NoConnections, s.Socket, s.PluginDir = true, true, "/n.sock", "/p"
				s.Registration, s.Request = 3*time.Second, time.Second
				s.Validator = doctor.Validator{Enabled: true, Required: []string{"meshnetd"}, Tolerate: "t", RejectNamespaces: true}
				s.NetNSDir, s.CNIPrograms, s.CNIDir = "/s/io.containerd.grpc.v1.cri/netns", []string{"/b1", "/b2"}, "/net.d"
			}},
		"version 2": {containerd17, map[string]string{"etc/containerd/config.toml": "version = 2\n" + nriTable + "disable = false\n" +
			"[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/b\"\nconf_dir = \"/net.d\""},
			func(s *doctor.Settings) { s.CNIPrograms, s.CNIDir = []string{"/b"}, "/net.d" }},
		"later files count, key by key": {containerd24, map[string]string{
			"etc/containerd/config.toml": "imports = [\"conf.d/*.toml\"]\n" + nriTable + "disable = true\nplugin_request_timeout = \"3s\"\n" +
				validatorTable + "enable = true\nrequired_plugins = [\"a\"]\nreject_namespace_adjustment = true",
			"etc/containerd/conf.d/1.toml": nriTable + "disable = false\n" + validatorTable + "enable = false\nrequired_plugins = []",
			"etc/containerd/conf.d/2.toml": "imports = [\"/etc/containerd/config.toml\", \"/etc/more.toml\"]\n" + validatorTable + "enable = true",
			"etc/more.toml":                validatorTable + "required_plugins = [\"b\"]",
		}, func(s *doctor.Settings) {
			s.Files = []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/1.toml", "/etc/containerd/conf.d/2.toml", "/etc/more.toml"}
			s.Request, s.Validator = 3*time.Second, doctor.Validator{Enabled: true, Required: []string{"b"}, RejectNamespaces: true}
		}},
		"later files count, table by table in 1.7": {containerd17, map[string]string{
			"etc/containerd/config.toml": "version = 2\nimports = [\"/etc/more.toml\"]\n" + nriTable + "disable = true\nplugin_request_timeout = \"3s\"",
			"etc/more.toml":              nriTable + "disable = false",
		}, func(s *doctor.Settings) {
			s.Files = []string{"/etc/containerd/config.toml", "/etc/more.toml"}
		}},
		"values of another kind": {containerd24, map[string]string{"etc/containerd/config.toml": nriTable + "disable = \"yes\"\nplugin_request_timeout = \"soon\"\n" +
			"plugin_registration_timeout = \"0s\"\n" +
			"default_validator = 1\nsocket_path = []"}, func(*doctor.Settings) {}},
	} {
		t.Run(name, func(t *testing.T) {
			root := plant(t, c.files)
			got := settings(root, c.runtime, 0, "")
			want := doctor.Settings{File: "/etc/containerd/config.toml", Files: []string{"/etc/containerd/config.toml"}, Socket: "/var/run/nri/nri.sock",
				PluginDir: "/opt/nri/plugins", Registration: 5 * time.Second, Request: 2 * time.Second,
				CNIDir: "/etc/cni/net.d", CNIPrograms: []string{"/opt/cni/bin"}, NetNSDir: "/var/run/netns"}
			c.want(&want)
			got.Changed, got.Newest = time.Time{}, ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCRIOSettings(t *testing.T) {
	root := plant(t, map[string]string{
		"etc/crio/crio.conf": "[crio]\nnamespaces_dir = \"/ns\"\n[crio.nri]\nenable_nri = false\nnri_listen = \"/n.sock\"\nnri_plugin_dir = \"/p\"\n" +
			"nri_plugin_request_timeout = \"3s\"\nnri_plugin_registration_timeout = \"4s\"\n[crio.network]\nnetwork_dir = \"/net.d\"\nplugin_dirs = [\"/b\"]",
		"etc/crio/crio.conf.d/10-a.conf": "[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_required_plugins = [\"a\"]\n" +
			"nri_validator_reject_namespace_adjustment = true\nnri_validator_tolerate_missing_plugins_annotation = \"t\"",
		"etc/crio/crio.conf.d/20-b.conf": "[crio.nri]\nenable_nri = true\nnri_disable_connections = true",
	})
	got := settings(root, crio136, 0, "")
	got.Changed, got.Newest = time.Time{}, ""
	want := doctor.Settings{File: "/etc/crio/crio.conf",
		Files:  []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/10-a.conf", "/etc/crio/crio.conf.d/20-b.conf"},
		Socket: "/n.sock", PluginDir: "/p", Registration: 4 * time.Second, Request: 3 * time.Second, NoConnections: true,
		Validator: doctor.Validator{Enabled: true, Required: []string{"a"}, Tolerate: "t", RejectNamespaces: true},
		CNIDir:    "/net.d", CNIPrograms: []string{"/b"}, NetNSDir: "/ns/netns"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if got := settings(plant(t, nil), crio136, 0, ""); !got.Missing || got.NRIDisabled || got.NetNSDir != "/var/run/netns" {
		t.Errorf("without files: %+v", got)
	}
	if got := settings(plant(t, map[string]string{"etc/crio/crio.conf.d/1.conf": "[crio"}), crio136, 0, ""); got.Err == nil || !strings.Contains(got.Err.Error(), "/etc/crio/crio.conf.d/1.conf:1: not TOML") {
		t.Errorf("a bad drop-in: %v", got.Err)
	}
}

func TestBadSettings(t *testing.T) {
	for name, c := range map[string]struct {
		text, asked, want string
	}{
		"no TOML":      {"version = 3\n[plugins", "", "/etc/containerd/config.toml:2: not TOML"},
		"no import":    {"imports = [\"/nowhere.toml\"]", "", "nowhere.toml: no such file"},
		"no such file": {"", "/elsewhere.toml", "/elsewhere.toml: file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			got := settings(plant(t, map[string]string{"etc/containerd/config.toml": c.text}), containerd24, 0, c.asked)
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.want) || got.Missing {
				t.Errorf("got %v (missing %v), want %s", got.Err, got.Missing, c.want)
			}
		})
	}
	many := map[string]string{"etc/containerd/config.toml": "imports = [\"many/*.toml\"]"}
	for _, name := range strings.Fields(strings.Repeat("a b c d e f g h i j ", 1)) {
		for _, second := range "0123456789ab" {
			many["etc/containerd/many/"+name+string(second)+".toml"] = ""
		}
	}
	if got := settings(plant(t, many), containerd24, 0, ""); got.Err == nil || !strings.Contains(got.Err.Error(), "more than 100 files") {
		t.Errorf("too many imports: %v", got.Err)
	}
}

// The file that the runtime was started with goes before the usual one, and what is asked for before both.
func TestWhichFile(t *testing.T) {
	for name, c := range map[string]struct{ line, asked, want string }{
		"-c":           {"containerd\x00-c\x00/c.toml\x00-l\x00info\x00", "", "/c.toml"},
		"--config":     {"containerd\x00--config\x00/c.toml\x00", "", "/c.toml"},
		"--config=":    {"containerd\x00--config=/c.toml\x00", "", "/c.toml"},
		"none":         {"containerd\x00", "", "/etc/containerd/config.toml"},
		"nothing more": {"containerd\x00-c", "", "/etc/containerd/config.toml"},
		"asked":        {"containerd\x00-c\x00/c.toml\x00", "/asked.toml", "/asked.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := settings(plant(t, map[string]string{"proc/7/cmdline": c.line}), containerd24, 7, c.asked); got.File != c.want {
				t.Errorf("got %s, want %s", got.File, c.want)
			}
		})
	}
	root := plant(t, map[string]string{"proc/7/cmdline": "containerd\x00-c\x00c.toml\x00"})
	if err := os.Symlink("/work", filepath.Join(string(root), "proc/7/cwd")); err != nil {
		t.Fatal(err)
	}
	if got := settings(root, containerd24, 7, ""); got.File != "/work/c.toml" {
		t.Errorf("a relative file: %s", got.File)
	}
}

func TestNewest(t *testing.T) {
	root := plant(t, map[string]string{"a": "", "b": "", "c": ""})
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	if err := os.Chtimes(root.path("/b"), at, at); err != nil {
		t.Fatal(err)
	}
	if file, changed := root.newest([]string{"/a", "/b", "/c", "/gone"}); file != "/b" || !changed.Equal(at) {
		t.Errorf("%s, %v", file, changed)
	}
}

func FuzzContainerd(f *testing.F) {
	f.Add("version = 3\nimports = [\"*.toml\", \"/x\"]\n" + nriTable + "disable = true\n" + validatorTable + "enable = true")
	f.Add("[plugins]\n\"io.containerd.nri.v1.nri\" = 1")
	f.Add("[crio.nri]\nenable_nri = 1")
	f.Fuzz(func(t *testing.T, text string) {
		root := plant(t, map[string]string{"etc/containerd/config.toml": text, "etc/crio/crio.conf": text})
		for _, rt := range []doctor.Runtime{containerd24, containerd17, crio136} {
			s := settings(root, rt, 0, "")
			doctor.Judge(doctor.Facts{Runtime: rt, Settings: s})
			if s.Request <= 0 || s.Registration <= 0 {
				t.Errorf("a time of %v or %v", s.Request, s.Registration)
			}
		}
	})
}
