// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// The node loses its power and comes back in the worst order: the runtime first, then the kubelet with all pods to be
// started, and meshnetd last, whose image has to be fetched again. Pods of the mesh start only with it, and never
// without their rules; others do not wait.
func (s *story) power(t *testing.T) {
	eye := s.watching(t)
	eye.outside(t)
	s.Apply(t, s.calling(t, "survivor"))
	s.Ready(t, "survivor")
	before := s.sandboxes(t)
	mark := eye.capture.Mark()
	begun := time.Now()
	if err := s.C.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.C.left(t); len(left) > 0 {
		t.Fatalf("is not off: %q", left)
	}
	t.Logf("off after %s", time.Since(begun).Round(time.Millisecond))
	const image = "localhost/meshnetd/meshnetd:kube"
	begun = time.Now()
	if err := s.C.PowerOn(t.Context(), func() error { return s.C.Ctr(t.Context(), "images", "rm", "--sync", image) }); err != nil {
		t.Fatal(err)
	}
	s.anew(t, before, "outsider")
	t.Logf("a pod outside the mesh runs %s after the kubelet's start", time.Since(begun).Round(time.Millisecond))
	s.Wait(t, `required plugin "meshnetd" not present`, "-n", "shop", "describe", "pod", "survivor")
	if status := s.pod(t, "survivor"); status.running() > 0 {
		t.Errorf("containers of the mesh run without meshnetd: %+v", status)
	}
	if err := s.C.Import(t.Context(), os.Getenv("MESHNETD_IMAGE")); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	s.anew(t, before, "survivor")
	t.Logf("the pod of the mesh runs %s after meshnetd's image is there", time.Since(begun).Round(time.Millisecond))
	s.byTheProxy(t, "survivor")
	if around := eye.around(t, mark); len(around) > 0 {
		t.Errorf("went around the mesh, by source: %v", around)
	}
	s.whole(t)
	s.Kubectl(t, "-n", "shop", "delete", "pod", "survivor", "outsider", "--now")
}

// podStatus is a pod's status, as far as it matters here.
type podStatus struct {
	Status struct {
		InitContainerStatuses, ContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	ContainerID string
	Ready       bool
	State       map[string]any
}

// running returns how many containers of the pod run.
func (p podStatus) running() int {
	n := 0
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if _, runs := c.State["running"]; runs {
			n++
		}
	}
	return n
}

func (s *story) pod(t *testing.T, name string) podStatus {
	t.Helper()
	var p podStatus
	if err := json.Unmarshal([]byte(s.Kubectl(t, "-n", "shop", "get", "pod", name, "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// sandboxes returns the ids of all containers of the shop's pods.
func (s *story) sandboxes(t *testing.T) string {
	t.Helper()
	return s.Kubectl(t, "-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}")
}

// anew waits until every container of the pod is one that was not there before, and ready.
func (s *story) anew(t *testing.T, before, pod string) {
	t.Helper()
	err := lab.Poll(t.Context(), func() (bool, error) {
		status := s.pod(t, pod)
		for _, c := range status.Status.ContainerStatuses {
			if !c.Ready || c.ContainerID == "" || strings.Contains(before, c.ContainerID) {
				return false, nil
			}
		}
		return len(status.Status.ContainerStatuses) > 0, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// left is what a node that is off has not.
func (c *Cluster) left(t *testing.T) []string {
	t.Helper()
	var left []string
	below, err := mountsBelow(c.NetNSDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, find := range []func() ([]int, error){c.shims, c.podProcesses} {
		pids, err := find()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, string(text))
		}
	}
	return append(left, below...)
}
