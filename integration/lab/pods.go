// SPDX-License-Identifier: Apache-2.0

package lab

import "maps"

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
