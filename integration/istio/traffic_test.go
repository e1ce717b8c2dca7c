// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/meshnetd/meshnetd/integration/kube"
)

// What no Service or ServiceEntry names is let through, or stopped, by the proxy.
func (m *mesh) registryOnly() tenant {
	fenced := pod{namespace: "shop", name: "fenced"}
	return tenant{"egress REGISTRY_ONLY", []pod{fenced}, func(t *testing.T) {
		m.lines(t, "fenced", m.outbound(t, fenced, 0, outsidePort)...)
		m.object(t, "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: fenced, namespace: shop}, spec: {workloadSelector: {labels: {app: fenced}}, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}")
		m.answered(t, "failed:", "shop", "fenced", m.outside(0, "18081"))
		m.lines(t, "fenced", "cluster=BlackHoleCluster", "to="+m.outsideAddress(0, "18081"))
		m.answered(t, "web peer=", "shop", "fenced", webName+"fenced")
		m.lines(t, "fenced", "path=/fenced", "cluster=outbound|8080||web.shop.svc.cluster.local")
	}}
}

// With TPROXY the app sees who asks, through the proxy.
func (m *mesh) transparent() tenant {
	through := pod{namespace: "transparent", name: "through", annotations: map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY"}}
	return tenant{"TPROXY", []pod{through}, func(t *testing.T) {
		m.passes(t, through, 0)
		asker := m.address(t, plain, 0)
		m.Wait(t, "/in by "+asker+":", "-n", "transparent", "logs", "through", "-c", "app")
		m.accessed(t, "transparent", "through", "by="+asker+":")
	}}
}

// Both families are the proxy's, in both directions.
func (m *mesh) dualStack() tenant {
	both := pod{namespace: "shop", name: "both", annotations: proxyMetadata("ISTIO_DUAL_STACK", "true")}
	return tenant{"dual stack", []pod{both}, func(t *testing.T) { m.passes(t, both, 0, 1) }}
}

// vm is the interface of something in a pod that has a network of its own, as a virtual machine or a container of docker.
const vm = "vm0"

// What is excluded goes around the proxy, and what is not does not.
func (m *mesh) annotations() tenant {
	const traffic = "traffic.sidecar.istio.io/"
	bridge := m.bridge[0].String() + "/32"
	tests := []struct {
		annotations                   map[string]string
		around, out, inAround, inside []string // ports
	}{
		{
			map[string]string{traffic + "excludeOutboundPorts": "18081", traffic + "excludeInboundPorts": "8081", traffic + "kubevirtInterfaces": vm},
			[]string{"18081"}, []string{outsidePort}, []string{"8081"}, []string{"8080"},
		}, {
			map[string]string{traffic + "excludeOutboundIPRanges": bridge, traffic + "includeInboundPorts": "8081"},
			[]string{outsidePort, "18081"}, nil, []string{"8080"}, []string{"8081"},
		}, {
			map[string]string{traffic + "includeOutboundIPRanges": "192.0.2.0/24", traffic + "includeOutboundPorts": "18081", traffic + "includeInboundPorts": ""},
			[]string{outsidePort}, []string{"18081"}, []string{"8080", "8081"}, nil,
		}, {
			map[string]string{traffic + "excludeInterfaces": "eth0", "istio.io/reroute-virtual-interfaces": vm},
			[]string{outsidePort}, nil, []string{"8080"}, nil,
		},
	}
	var pods []pod
	for i, tt := range tests {
		pods = append(pods, pod{namespace: "shop", name: fmt.Sprintf("annotated-%d", i), annotations: tt.annotations})
	}
	return tenant{"annotations", pods, func(t *testing.T) {
		for i, tt := range tests {
			p := pods[i]
			var around [][]string
			for _, port := range tt.around {
				around = append(around, []string{m.outbound(t, p, 0, port)[1], "by=" + m.address(t, p, 0) + ":"})
			}
			for _, port := range tt.inAround {
				around = append(around, m.inbound(t, p, 0, port)[1:])
			}
			for _, port := range tt.out {
				m.lines(t, p.name, m.outbound(t, p, 0, port)...)
			}
			for _, port := range tt.inside {
				m.lines(t, p.name, m.inbound(t, p, 0, port)...)
			}
			if i == 0 || i == 3 {
				m.lines(t, p.name, m.fromWithin(t, p)...)
			}
			for _, line := range around {
				m.none(t, "shop", p.name, line...)
			}
		}
	}}
}

// fromWithin has something behind a virtual interface of the pod ask the server outside, and is what the pod's proxy logs of
// that.
func (m *mesh) fromWithin(t *testing.T, p pod) (line []string) {
	t.Helper()
	const inside, gateway = "172.31.255.2", "172.31.255.1"
	app, err := buildApp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	machine := exec.CommandContext(t.Context(), app, "pause")
	machine.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := machine.Start(); err != nil {
		t.Fatalf("rig: %v", err)
	}
	defer func() { _, _ = machine.Process.Kill(), machine.Wait() }()
	of, in := m.sandbox(t, p).PID, machine.Process.Pid
	within := func(pid int, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + strconv.Itoa(pid) + "/ns/net"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("rig: %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	within(of, "ip", "link", "add", vm, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(in))
	within(of, "ip", "addr", "add", gateway+"/30", "dev", vm)
	within(of, "ip", "link", "set", vm, "up")
	within(in, "ip", "addr", "add", inside+"/30", "dev", "eth0")
	within(in, "ip", "link", "set", "eth0", "up")
	within(in, "ip", "route", "add", "default", "via", gateway)
	if answer := within(in, app, "get", m.outside(0, "18081")); !strings.Contains(answer, "outside peer=") {
		t.Errorf("behind %s: %s", vm, answer)
	}
	return []string{"cluster=PassthroughCluster", "by=" + inside + ":", "to=" + m.outsideAddress(0, "18081")}
}
