// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/integration/speed"
)

// Each way of starting a pod is measured with so many pods, some in each round: the rounds go through all the ways, so
// that a machine that becomes slower does so for all.
const (
	rounds      = 5
	podsOfRound = 10
)

// TestNumbers prints how long pods take from their creation to Running, and judges nothing.
func TestNumbers(t *testing.T) {
	out := os.Getenv("MESHNETD_NUMBERS")
	if out == "" {
		t.Skip("runs by make bench-kube")
	}
	s := &story{Steps: NewSteps(t, Run(t))}
	s.Images(t)
	s.System(t)
	s.Upgrade(t)
	s.Kubectl(t, "create", "namespace", "shop")
	s.initImage(t)
	ways := []*way{
		{peer: speed.Peer{Name: "no mesh, no meshnetd"}, pod: bare},
		{peer: speed.Peer{Name: "meshnetd"}, pod: withoutValidation, meshnetd: true},
		{peer: speed.Peer{Name: "meshnetd, and the injector's istio-validation"}, pod: measured, meshnetd: true},
		{peer: speed.Peer{Name: "init container with NET_ADMIN, no meshnetd"}, pod: initialized},
	}
	for round := range rounds {
		for _, meshnetd := range []bool{round%2 == 0, round%2 == 1} {
			s.have(t, meshnetd)
			for i := range ways {
				if w := ways[(i+round)%len(ways)]; w.meshnetd == meshnetd {
					w.sample(t, s, round)
				}
			}
		}
	}
	var rows []speed.Row
	for _, w := range ways {
		rows = append(rows, w.peer.Row())
	}
	var table strings.Builder
	speed.Table(&table, "one pod after the other, from its creation to Running", rows...)
	fmt.Fprintf(&table, "  the same pod each time: a native sidecar and an app; seen by a watch; the kubelet looks at containers once a second\n")
	if err := os.WriteFile(out, []byte(table.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
}

// way is one way to start a pod.
type way struct {
	peer     speed.Peer
	pod      func(name string) string
	meshnetd bool
}

func (w *way) sample(t *testing.T, s *story, round int) {
	t.Helper()
	var names []string
	for i := range podsOfRound {
		name := fmt.Sprintf("pod-%d-%d", round, i)
		spread(t, i)
		took := s.running(t, name, w.pod(name))
		w.peer.Samples = append(w.peer.Samples, took)
		names = append(names, name)
	}
	s.Kubectl(t, append([]string{"-n", "shop", "delete", "pod", "--now"}, names...)...)
}

// spread waits for the i-th part of a second of the clock. The kubelet looks at its containers once a second, and a pod
// waits for that: one that is made as soon as the last one runs would always wait as long as the last one did.
func spread(t *testing.T, i int) {
	t.Helper()
	now := time.Now()
	next := now.Truncate(time.Second).Add(time.Duration(i) * time.Second / podsOfRound)
	if next.Before(now) {
		next = next.Add(time.Second)
	}
	select {
	case <-time.After(next.Sub(now)):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// have sees to it that meshnetd is there, or is not.
func (s *story) have(t *testing.T, meshnetd bool) {
	t.Helper()
	if meshnetd {
		s.Upgrade(t)
		return
	}
	s.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--ignore-not-found", "--cascade=foreground", "--wait")
}

// The pods. What makes the difference is in what is taken away from, or put into, a pod of the mesh.
func measured(name string) string {
	pod, _, _ := strings.Cut(meshed(name, ""), "    - name: web\n")
	return pod
}

func withoutValidation(name string) string {
	before, rest, _ := strings.Cut(measured(name), "    - {name: istio-validation")
	_, rest, _ = strings.Cut(rest, "\n")
	return before + rest
}

func bare(name string) string {
	before, rest, _ := strings.Cut(withoutValidation(name), "  annotations:\n")
	_, rest, _ = strings.Cut(rest, "spec:\n")
	return before + "spec:\n" + rest
}

func initialized(name string) string {
	return strings.Replace(bare(name), "  initContainers:\n", "  initContainers:\n"+
		"    - {name: istio-init, image: "+initImage+", imagePullPolicy: Never, securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}}}\n", 1)
}

// running makes the pod and returns how long it took until the API server said that it runs.
func (s *story) running(t *testing.T, name, manifest string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var pod map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &pod); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	const pods = "/api/v1/namespaces/shop/pods"
	begun := time.Now()
	created := s.request(ctx, t, http.MethodPost, pods, body)
	defer created.Close()
	var made struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := json.NewDecoder(created).Decode(&made); err != nil {
		t.Fatal(err)
	}
	events := s.request(ctx, t, http.MethodGet, pods+"?watch=1&fieldSelector=metadata.name="+name+"&resourceVersion="+made.Metadata.ResourceVersion, nil)
	defer events.Close()
	for decoder := json.NewDecoder(events); ; {
		var event struct {
			Type   string
			Object json.RawMessage
		}
		var pod struct{ Status struct{ Phase string } }
		if err := decoder.Decode(&event); err != nil {
			t.Fatalf("%s does not run: %v", name, err)
		}
		if err := json.Unmarshal(event.Object, &pod); err != nil {
			t.Fatalf("%s does not run: %s: %s", name, event.Type, event.Object)
		}
		if pod.Status.Phase == "Running" {
			return time.Since(begun)
		}
	}
}

// request asks the API server itself: the start of a kubectl would be a good part of what is measured.
func (s *story) request(ctx context.Context, t *testing.T, method, path string, body []byte) io.ReadCloser {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, s.C.api+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.C.token)
	request.Header.Set("Content-Type", "application/json")
	if s.client == nil {
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		t.Cleanup(s.client.CloseIdleConnections)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		said, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		t.Fatalf("%s %s: %s: %s", method, path, answer.Status, said)
	}
	return answer.Body
}

// initImage stands in for the image of istio-init. That one runs a program of its own, which looks for the right
// iptables first; this one has the rules ready and writes them.
const (
	initImage = "localhost/meshnetd/init:1"
	restore   = "/usr/sbin/xtables-nft-multi %s-restore --noflush /rules.%s"
)

// initImage makes the image of the init container: the machine's iptables, a shell, and the rules that meshnetd writes.
func (s *story) initImage(t *testing.T) {
	t.Helper()
	plan, err := s.C.Kubectl(t.Context(), measured("plan"), "-n", "meshnetd-system", "exec", "-i", "ds/meshnetd", "--", "meshnetd", "plan", "-f", "-", "-o", "restore")
	if err != nil {
		t.Fatal(err)
	}
	v4, v6, both := strings.Cut(plan, "# ip6tables\n")
	if !both || !strings.Contains(v4, "REDIRECT") {
		t.Fatalf("no rules in\n%s", plan)
	}
	tar := t.TempDir() + "/init.tar"
	image := Image{Tag: initImage, Programs: map[string]string{}, Files: map[string]string{"rules.v4": v4, "rules.v6": v6},
		Entrypoint: []string{"/usr/bin/dash", "-ec", fmt.Sprintf(restore, "iptables", "v4") + "\n" + fmt.Sprintf(restore, "ip6tables", "v6")}}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so") // iptables loads them by itself
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(extensions, "/usr/sbin/xtables-nft-multi", "/usr/bin/dash") {
		image.Programs[path] = path
	}
	if err := image.Write(tar); err != nil {
		t.Fatal(err)
	}
	if err := s.C.Import(t.Context(), tar); err != nil {
		t.Fatal(err)
	}
}
