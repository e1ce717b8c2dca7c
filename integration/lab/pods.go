// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// Injected returns the annotations that Istio's injector writes on a pod in CNI mode, and more.
func Injected(more map[string]string) map[string]string {
	annotations := map[string]string{
		"sidecar.istio.io/status": `{"initContainers":["istio-validation","istio-proxy"],"containers":null,` +
			`"volumes":["workload-socket"],"imagePullSecrets":null,"revision":"default"}`,
		"sidecar.istio.io/interceptionMode":                "REDIRECT",
		"traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
		"traffic.sidecar.istio.io/includeInboundPorts":     "*",
		"traffic.sidecar.istio.io/excludeInboundPorts":     "15020",
		"istio.io/rev": "default",
	}
	maps.Copy(annotations, more)
	return annotations
}

// mostAnnotations is what Kubernetes allows a pod to have in annotations, but for a few kB.
const mostAnnotations = 250_000

// Greedy returns a pod of each mesh whose author writes as much into its lists as Kubernetes allows.
func Greedy() []PodSpec {
	ports := every(",", func(i int) string { return strconv.Itoa(1 + 2*i%65536) }) // none is next to another
	ranges := every(",", func(i int) string { return fmt.Sprintf("10.%d.%d.0/25", i/256%256, i%256) })
	quoted := every(",", func(i int) string { return strconv.Quote(strconv.Itoa(1 + 2*i%65536)) })
	return []PodSpec{
		{Name: "istio-ports", Annotations: Injected(map[string]string{"traffic.sidecar.istio.io/excludeOutboundPorts": ports})},
		{Name: "istio-ranges", Annotations: Injected(map[string]string{"traffic.sidecar.istio.io/excludeOutboundIPRanges": ranges})},
		{Name: "consul", Annotations: map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
			"consul.hashicorp.com/transparent-proxy-status": "enabled",
			"consul.hashicorp.com/redirect-traffic-config":  `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ExcludeOutboundPorts":[` + quoted + `]}`}},
		{Name: "kuma", Annotations: map[string]string{"kuma.io/sidecar-injected": "true",
			"traffic.kuma.io/transparent-proxy-config": "cniMode: true\nredirect: {outbound: {excludePorts: [" + ports + "]}}\n"}},
		{Name: "linkerd", Labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"},
			Annotations: map[string]string{"linkerd.io/proxy-version": "x", "config.linkerd.io/skip-outbound-ports": ports}},
	}
}

// every joins as many items as there is room for.
func every(separator string, item func(int) string) string {
	var list strings.Builder
	list.WriteString(item(0))
	for i := 1; list.Len() < mostAnnotations-100; i++ {
		list.WriteString(separator + item(i))
	}
	return list.String()
}
