// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"strings"
	"testing"
)

// What lies in /usr/share/meshnetd/systemd gives the unit what it has not by itself.
func TestDropIns(t *testing.T) {
	l := begin(t)
	l.must(t, "dpkg", "--install", "/shared/v1.0.0.deb")
	const dir = "/etc/systemd/system/meshnetd.service.d/"
	l.configure(t, "metrics.address = \"127.0.0.1:15990\"\n")
	l.must(t, "systemctl", "restart", "meshnetd")
	const get = `exec 3<>/dev/tcp/127.0.0.1/15990 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3`
	if _, err := l.run(t.Context(), "bash", "-c", get); err == nil {
		t.Error("TCP works within the unit's walls: the drop-in is for nothing")
	}
	l.must(t, "install", "-D", "-m", "644", "-t", dir, "/usr/share/meshnetd/systemd/metrics-tcp.conf")
	l.must(t, "systemctl", "daemon-reload")
	l.must(t, "systemctl", "restart", "meshnetd")
	l.eventually(t, "metrics can be read over TCP", func() bool {
		got, err := l.run(t.Context(), "bash", "-c", get)
		return err == nil && strings.Contains(got, "meshnetd_")
	})

	l.must(t, "rm", dir+"metrics-tcp.conf")
	l.must(t, "systemctl", "daemon-reload")
	l.configure(t, "backend = \"iptables-legacy\"\n")
	if _, err := l.run(t.Context(), "systemctl", "restart", "meshnetd"); err == nil {
		t.Error("iptables-legacy works within the unit's walls: the drop-in is for nothing")
	}
	l.must(t, "install", "-D", "-m", "644", "-t", dir, "/usr/share/meshnetd/systemd/iptables-legacy.conf")
	l.must(t, "systemctl", "daemon-reload")
	l.must(t, "systemctl", "restart", "meshnetd")
	p := l.start(t, "default", "legacy")
	if got := l.must(t, "nsenter", "--net="+p.netns, "iptables-legacy-save"); !strings.Contains(got, "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001") {
		t.Errorf("rules of iptables-legacy:\n%s", got)
	}
}

// A node that boots has its runtime first, then meshnetd, and the kubelet when meshnetd has taken the pods over.
func TestOrderOfBoot(t *testing.T) {
	l := begin(t)
	l.must(t, "dpkg", "--install", "/shared/v1.0.0.deb")
	l.configure(t, "")
	l.write(t, "/etc/systemd/system/kubelet.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n")
	l.must(t, "systemctl", "daemon-reload")
	l.must(t, "systemctl", "enable", "meshnetd", "kubelet")
	l.again(t)
	at := func(unit, property string) int64 { return microseconds(t, l.show(unit, property)) }
	runtime, begun := at("containerd", "ActiveEnterTimestampMonotonic"), at("meshnetd", "ExecMainStartTimestampMonotonic")
	ready, kubelet := at("meshnetd", "ActiveEnterTimestampMonotonic"), at("kubelet", "ExecMainStartTimestampMonotonic")
	if runtime == 0 || runtime > begun || begun > ready || ready > kubelet {
		t.Errorf("the runtime is ready at %d us, meshnetd starts at %d and is ready at %d, the kubelet starts at %d", runtime, begun, ready, kubelet)
	}
	t.Logf("meshnetd was ready %.1f ms after its start", float64(ready-begun)/1000)
}
