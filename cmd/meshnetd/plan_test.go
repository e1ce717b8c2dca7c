// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/config"

	"github.com/meshnetd/meshnetd/internal/golden"
)

// execute runs a command line the way main does, and returns the code that main would end with.
func execute(t *testing.T, stdin string, args ...string) (code int, stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&out)
	c.SetErr(t.Output())
	err = c.Execute()
	var coded *exit
	switch {
	case err == nil:
		code = 0
	case errors.As(err, &coded):
		code = coded.code
	default:
		code = exitBadConfig
	}
	return code, out.String(), err
}

func testdata(name string) string { return filepath.Join("testdata", name) }

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name, pod, config string
		code              int
		message           string // "": nothing on standard error, or for a refused pod nothing more
	}{
		{"meshed", "meshed.yaml", "default.toml", 0, ""},
		{"around", "around.yaml", "default.toml", 0, ""},
		{"block", "around.yaml", "block.toml", 0, ""},
		{"outside", "outside.yaml", "default.toml", 0, ""},
		{"refused", "refused.yaml", "default.toml", exitRefused, ""},
		{"no-address", "no-address.yaml", "default.toml", exitRefused, ""},
		{"policy-ignored", "policy.yaml", "policy-ignored.toml", exitRefused, ""},
		{"policy-forbidden", "policy.yaml", "policy-forbidden.toml", exitRefused, ""},
	} {
		for _, format := range []string{"text", "restore", "json"} {
			t.Run(tt.name+" "+format, func(t *testing.T) {
				code, out, err := execute(t, "", "plan", "-f", testdata(tt.pod), "--config", testdata(tt.config), "-o", format)
				if code != tt.code {
					t.Errorf("exit %d, want %d: %v", code, tt.code, err)
				}
				if err != nil && err.Error() != tt.message {
					t.Errorf("message %q, want %q", err, tt.message)
				}
				golden.Check(t, "plan-"+tt.name+"."+format+".golden", out)
			})
		}
	}
}

// A container that runs as the proxy is named unless nobody looks, and refused as the daemon refuses it.
func TestPlanImpostors(t *testing.T) {
	const as = "container app runs as user 1337, as the proxy does"
	for policy, want := range map[string]struct {
		note string
		code int
	}{
		"":                                   {"note: would be refused (proxy_identity = \"refuse\"): " + as, exitRefused},
		"proxy_identity = \"report\"\n":      {"note: would be created, and reported (proxy_identity = \"report\"): " + as, 0},
		"proxy_identity = \"off\"\n":         {"", 0},
		"proxy_identity_exempt = [\"s*\"]\n": {"note: would be created, since proxy_identity_exempt has namespace shop: " + as, 0},
		"proxy_identity_exempt = [\"s\"]\n":  {"note: would be refused (proxy_identity = \"refuse\"): " + as, exitRefused},
	} {
		path := filepath.Join(t.TempDir(), "meshnetd.toml")
		if err := os.WriteFile(path, []byte(policy), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, verb := range []string{"plan", "explain"} {
			code, out, _ := execute(t, "", verb, "-f", testdata("policy.yaml"), "--config", path)
			if code != want.code || !strings.Contains(out, want.note) || strings.Count(out, "note: would be ") != min(len(want.note), 1) {
				t.Errorf("%s %q: exit %d, not %q in:\n%s", verb, policy, code, want.note, out)
			}
		}
	}
}

// Pods that users of Istio and OpenShift have reported.
func TestPlanReported(t *testing.T) {
	for name, want := range map[string]struct {
		code  int
		notes []string
	}{
		"init-as-proxy": {exitRefused, []string{"init container download-model runs before the proxy does", "container download-model runs as user 1337, as the proxy does"}},
		"same-uid":      {exitRefused, []string{"container app runs as user 1000820000, as the proxy does"}},
		"pod-as-proxy": {exitRefused, []string{"container app runs as user 1337 and group 1337, as the proxy does",
			"container worker has the proxy's group 1337 among its additional groups, as a pod's fsGroup or supplementalGroups make it"}},
		"runtime-class": {0, []string{"runtimeClassName nvidia is taken for the name of its handler"}},
	} {
		for _, output := range []string{"text", "json", "restore"} {
			code, out, _ := execute(t, "", "plan", "-f", testdata("identity-"+name+".yaml"), "-o", output, "--config", testdata("default.toml"))
			if code != want.code || strings.Count(out, "note: ") != len(want.notes) && output == "text" {
				t.Errorf("%s: exit %d:\n%s", name, code, out)
			}
			for _, note := range want.notes {
				if output != "restore" && !strings.Contains(out, note) {
					t.Errorf("%s: not %q in:\n%s", name, note, out)
				}
			}
		}
	}
	path := filepath.Join(t.TempDir(), "meshnetd.toml")
	if err := os.WriteFile(path, []byte("runtime_handlers = [\"\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := execute(t, "", "plan", "-f", testdata("identity-runtime-class.yaml"), "--config", path)
	if code != exitRefused || !strings.Contains(out, `reject (runtime-handler: runtime handler "nvidia"`) || !strings.Contains(out, "is taken for the name of its handler") {
		t.Errorf("a handler that is not listed: exit %d:\n%s", code, out)
	}
}

// text is what comes without -o.
func TestPlanDefaultFormat(t *testing.T) {
	_, text, _ := execute(t, "", "plan", "-f", testdata("meshed.yaml"), "--config", testdata("default.toml"), "--output", "text")
	code, out, err := execute(t, "", "plan", "--file", testdata("meshed.yaml"), "--config", testdata("default.toml"))
	if code != 0 || err != nil || out != text {
		t.Errorf("exit %d, %v:\n%s", code, err, cmp.Diff(text, out))
	}
}

func TestPlanFromStdin(t *testing.T) {
	pod, err := os.ReadFile(testdata("meshed.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := execute(t, "", "plan", "-f", testdata("meshed.yaml"), "--config", testdata("default.toml"))
	code, out, err := execute(t, string(pod), "plan", "-f", "-", "--config", testdata("default.toml"))
	if code != 0 || err != nil || out != want {
		t.Errorf("exit %d, %v:\n%s", code, err, cmp.Diff(want, out))
	}
}

// Scripts read the lists without asking first whether they are there.
func TestPlanJSONHasItsLists(t *testing.T) {
	for _, name := range []string{"meshed", "outside", "refused"} {
		_, out, _ := execute(t, "", "plan", "-f", testdata(name+".yaml"), "--config", testdata("default.toml"), "-o", "json")
		var document map[string]any
		if err := json.Unmarshal([]byte(out), &document); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"notes", "rules", "commands"} {
			if _, ok := document[key].([]any); !ok {
				t.Errorf("%s: %s is %v", name, key, document[key])
			}
		}
	}
}

func TestErrors(t *testing.T) {
	good, empty := testdata("meshed.yaml"), testdata("default.toml")
	for _, tt := range []struct {
		name  string
		stdin string
		args  []string
		code  int
		want  []string // in the message
	}{
		{"format", "", []string{"plan", "-f", good, "--config", empty, "-o", "yaml"}, exitBadConfig, []string{`output "yaml" is none of text, restore, json`}},
		{"no manifest", "", []string{"plan", "--config", empty}, exitBadConfig, []string{`"file" not set`}},
		{"manifest absent", "", []string{"plan", "-f", testdata("absent.yaml"), "--config", empty}, exitFailed, []string{"manifest: open ", "absent.yaml"}},
		{"manifest of another kind", "", []string{"plan", "-f", testdata("deployment.yaml"), "--config", empty}, exitFailed,
			[]string{"deployment.yaml: manifest: kind is \"Deployment\", want Pod"}},
		{"manifest empty", "", []string{"plan", "-f", "-", "--config", empty}, exitFailed, []string{"manifest: empty"}},
		{"manifest malformed", "kind: Pod\nstatus:\n  podIP: x\n", []string{"plan", "-f", "-", "--config", empty}, exitFailed, []string{"manifest: line 3: "}},
		{"configuration absent", "", []string{"plan", "-f", good, "--config", testdata("absent.toml")}, exitBadConfig, []string{"configuration: open ", "absent.toml"}},
		{"configuration bad", "", []string{"plan", "-f", good, "--config", testdata("bad.toml")}, exitBadConfig, []string{"bad.toml:2: ", "ipv7", "bad.toml:3: ", "ipv6"}},
		{"configuration before manifest", "", []string{"plan", "-f", testdata("absent.yaml"), "--config", testdata("bad.toml")}, exitBadConfig, []string{"ipv7"}},
		{"plan with an argument", "", []string{"plan", "x"}, exitBadConfig, []string{"unknown command"}},
		{"check bad", "", []string{"check", "--config", testdata("bad.toml")}, exitBadConfig, []string{"bad.toml:2: ", "ipv7", "bad.toml:3: ", "ipv6"}},
		{"check absent", "", []string{"check", "--config", testdata("absent.toml")}, exitBadConfig, []string{"configuration: open "}},
		{"check with an argument", "", []string{"check", "x"}, exitBadConfig, []string{"unknown command"}},
		{"unknown command", "", []string{"explode"}, exitBadConfig, []string{`unknown command "explode"`}},
		{"unknown flag", "", []string{"plan", "--explode"}, exitBadConfig, []string{"unknown flag: --explode"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, err := execute(t, tt.stdin, tt.args...)
			if code != tt.code || err == nil {
				t.Fatalf("exit %d, want %d: %v", code, tt.code, err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %q", part, err)
				}
			}
			if out != "" {
				t.Errorf("output besides the error:\n%s", out)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	code, out, err := execute(t, "", "check", "--config", testdata("block.toml"))
	if code != 0 || out != "the configuration is good\n" {
		t.Errorf("exit %d, %v: %q", code, err, out)
	}
}

// What is printed must be a configuration that is good.
func TestCheckPrintReference(t *testing.T) {
	code, out, err := execute(t, "", "check", "--print-reference")
	if code != 0 || out != config.Reference {
		t.Fatalf("exit %d, %v: %q", code, err, out)
	}
	path := filepath.Join(t.TempDir(), "meshnetd.toml")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, err := execute(t, "", "check", "--config", path); code != 0 {
		t.Errorf("exit %d, %v: %q", code, err, out)
	}
}

func TestVersion(t *testing.T) {
	code, out, err := execute(t, "", "version")
	if code != 0 || !strings.HasPrefix(out, "meshnetd ") || strings.Count(out, "\n") != 1 || !strings.Contains(out, " (go") {
		t.Errorf("exit %d, %v: %q", code, err, out)
	}
	old := version
	defer func() { version = old }()
	version = "v1.2.3"
	if _, out, _ := execute(t, "", "version"); !strings.HasPrefix(out, "meshnetd v1.2.3 (go") {
		t.Errorf("got %q", out)
	}
}

// The words are a contract with scripts.
func TestCommandWords(t *testing.T) {
	var words []string
	for _, c := range root().Commands() {
		words = append(words, c.Name())
	}
	if diff := cmp.Diff([]string{"apply", "check", "doctor", "explain", "lockdown", "plan", "ready", "reload", "remove", "report", "run", "status", "test", "trace", "verify", "version"}, words); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
