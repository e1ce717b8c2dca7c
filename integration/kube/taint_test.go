// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// A node that registers with the taint of packaging/taint takes no pods until meshnetd is ready on it. Who takes the
// taint away has a shell and kubectl; here these are the machine's, with the account and the script of the file.
func TestTaint(t *testing.T) {
	s := &story{c: start(t, "--register-with-taints", registered(t)), helm: helmTool(t)}
	s.kubectl(t, "create", "namespace", "shop")
	s.apply(t, plain("early"))
	s.namespace(t)
	file := filepath.Join(root(t), "packaging", "taint", "untaint.yaml")
	s.kubectl(t, "apply", "--validate=strict", "-f", file)
	s.wait(t, "untolerated taint(s)", "-n", "shop", "describe", "pod", "early")
	untaint := s.untaints(t)
	for _, args := range [][]string{
		{"taint", "node", Node, "meshnetd.io/other=:NoSchedule"}, {"label", "node", Node, "a=b"}, {"annotate", "node", Node, "a=b"},
		{"cordon", Node}, {"delete", "node", Node},
	} {
		untaint.forbidden(t, append(args, "--dry-run=server")...)
	}
	untaint.forbidden(t, "get", "secrets", "-A")
	untaint.run(t)
	s.images(t)
	s.upgrade(t)
	s.ready(t, "early")
	if left := s.kubectl(t, "get", "node", Node, "-o", "jsonpath={.spec.taints}"); strings.Contains(left, "meshnetd.io") {
		t.Errorf("the node still has %s", left)
	}
}

// registered is the taint that the kubelet's file has, as the kubelet's flag takes it.
func registered(t *testing.T) string {
	t.Helper()
	var file struct {
		RegisterWithTaints []struct{ Key, Effect string } `yaml:"registerWithTaints"`
	}
	text, err := os.ReadFile(filepath.Join(root(t), "packaging", "taint", "kubelet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.RegisterWithTaints) != 1 {
		t.Fatalf("%v, %+v", err, file)
	}
	return file.RegisterWithTaints[0].Key + "=:" + file.RegisterWithTaints[0].Effect
}

// untainter is who takes the taint away.
type untainter struct {
	program string // kubectl
	env     []string
	script  string
}

// untaints reads the file's script, and asks for a token of its account.
func (s *story) untaints(t *testing.T) *untainter {
	t.Helper()
	script := s.kubectl(t, "-n", "meshnetd-system", "get", "configmap", "meshnetd-untaint", "-o", `jsonpath={.data.untaint\.sh}`)
	token := s.kubectl(t, "-n", "meshnetd-system", "create", "token", "meshnetd-untaint")
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(s.c.path("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), s.c.token, token, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return &untainter{script: script, program: filepath.Join(s.c.opts.Binaries, "kubectl"), env: []string{"PATH=" + s.c.opts.Binaries + ":" + os.Getenv("PATH"), "KUBECONFIG=" + config, "HOME=" + t.TempDir()}}
}

// forbidden waits until the account may not do that: a policy is in force some moments after it is there.
func (u *untainter) forbidden(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out []byte
	if err := lab.Poll(ctx, func() (bool, error) {
		cmd := exec.CommandContext(ctx, u.program, args...)
		cmd.Env = u.env
		out, _ = cmd.CombinedOutput() // of cordon the code says nothing
		return strings.Contains(string(out), "orbidden"), nil
	}); err != nil {
		t.Errorf("the account may %v: %v: %s", args, err, out)
	}
}

// run runs the script until the test ends.
func (u *untainter) run(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sh", "-c", u.script)
	cmd.Env, cmd.Stdout, cmd.Stderr = u.env, t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	})
}
