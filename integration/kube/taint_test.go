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

// A node takes no pods until meshnetd is ready on it, and none when it has gone later. Who sets the taint of packaging/taint
// and takes it away has a shell and kubectl; here these are the machine's, with the account and the script of the file.
func TestTaint(t *testing.T) {
	s := &story{Steps: NewSteps(t, Run(t, "--register-with-taints", registered(t)))}
	s.Kubectl(t, "create", "namespace", "shop")
	s.Apply(t, plain("early"))
	s.System(t)
	file := filepath.Join(Root(t), "packaging", "taint", "taint.yaml")
	s.Kubectl(t, "apply", "--validate=strict", "-f", file)
	s.Wait(t, "untolerated taint(s)", "-n", "shop", "describe", "pod", "early")
	tainter := s.tainter(t)
	for _, args := range [][]string{
		{"taint", "node", Node, "meshnetd.io/other=:NoSchedule"}, {"label", "node", Node, "a=b"}, {"annotate", "node", Node, "a=b"},
		{"cordon", Node}, {"delete", "node", Node},
	} {
		tainter.forbidden(t, append(args, "--dry-run=server")...)
	}
	tainter.forbidden(t, "get", "secrets", "-A")
	tainter.run(t)
	s.Images(t)
	s.Upgrade(t)
	s.Ready(t, "early")
	if left := s.Kubectl(t, "get", "node", Node, "-o", "jsonpath={.spec.taints}"); strings.Contains(left, "meshnetd.io") {
		t.Errorf("the node still has %s", left)
	}

	s.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--cascade=foreground", "--wait")
	s.Wait(t, "meshnetd.io/not-ready", "get", "node", Node, "-o", "jsonpath={.spec.taints}")
	s.Apply(t, plain("late"))
	s.Wait(t, "untolerated taint(s)", "-n", "shop", "describe", "pod", "late")
	s.Ready(t, "early") // what runs goes on
	s.Upgrade(t)
	s.Ready(t, "late")
}

// registered is the taint that the kubelet's file has, as the kubelet's flag takes it.
func registered(t *testing.T) string {
	t.Helper()
	var file struct {
		RegisterWithTaints []struct{ Key, Effect string } `yaml:"registerWithTaints"`
	}
	text, err := os.ReadFile(filepath.Join(Root(t), "packaging", "taint", "kubelet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.RegisterWithTaints) != 1 {
		t.Fatalf("%v, %+v", err, file)
	}
	return file.RegisterWithTaints[0].Key + "=:" + file.RegisterWithTaints[0].Effect
}

// tainter is who sets the taint and takes it away.
type tainter struct {
	program string // kubectl
	env     []string
	script  string
}

// tainter reads the file's script, and asks for a token of its account.
func (s *story) tainter(t *testing.T) *tainter {
	t.Helper()
	script := s.Kubectl(t, "-n", "meshnetd-system", "get", "configmap", "meshnetd-taint", "-o", `jsonpath={.data.taint\.sh}`)
	token := s.Kubectl(t, "-n", "meshnetd-system", "create", "token", "meshnetd-taint")
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text, err := os.ReadFile(s.C.path("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), s.C.token, token, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tainter{script: script, program: filepath.Join(s.C.opts.Binaries, "kubectl"), env: []string{"PATH=" + s.C.opts.Binaries + ":" + os.Getenv("PATH"), "KUBECONFIG=" + config, "HOME=" + t.TempDir()}}
}

// forbidden waits until the account may not do that: a policy is in force some moments after it is there.
func (u *tainter) forbidden(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
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
func (u *tainter) run(t *testing.T) {
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
