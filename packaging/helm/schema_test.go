// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"strings"
	"testing"
)

// What helm refuses, and what its message has to name.
func TestRefused(t *testing.T) {
	for values, want := range map[string]string{
		"imgae: {tag: v1}":                                                      "imgae",
		"image: {repository: \"\"}":                                             "/image/repository",
		"image: {repository: \"a/b:v1\"}":                                       "/image/repository",
		"image: {repository: \"meshnetd:v1\"}":                                  "/image/repository",
		"image: {repository: \"A/b\"}":                                          "/image/repository",
		"image: {tag: \"a b\"}":                                                 "/image/tag",
		"image: {tag: 1.5}":                                                     "/image/tag",
		"image: {digest: \"sha256:12\"}":                                        "/image/digest",
		"image: {pullPolicy: Sometimes}":                                        "/image/pullPolicy",
		"imagePullSecrets: [name]":                                              "/imagePullSecrets/0",
		"config: {log: {level: debug}}":                                         "/config",
		"config: \"host_netns = 'x'\"":                                          "/config",
		"config: \"ipv6 = 'block'\\n  [metrics]\"":                              "/config",
		"config: \"metrics.address = ':1'\"":                                    "/config",
		"nri: {directory: \"\"}":                                                "/nri/directory",
		"nri: {directory: nri}":                                                 "/nri/directory",
		"nri: {directory: /run/../etc}":                                         "/nri/directory",
		"nri: {socket: /run/nri/nri.sock}":                                      "socket",
		"netns: {directories: []}":                                              "/netns/directories",
		"netns: {directories: [/a, /a]}":                                        "/netns/directories",
		"cri: {directory: run}":                                                 "/cri/directory",
		"metrics: {enabled: \"yes\"}":                                           "/metrics/enabled",
		"metrics: {enabled: true, port: 80}":                                    "/metrics/port",
		"metrics: {enabled: true, port: 70000}":                                 "/metrics/port",
		"metrics: {enabled: true, port: \"15990\"}":                             "/metrics/port",
		"metrics: {service: true}":                                              "/metrics/service",
		"metrics: {podMonitor: {enabled: true}}":                                "/metrics/podMonitor/enabled",
		"metrics: {podMonitor: {interval: soon}}":                               "/metrics/podMonitor/interval",
		"extraCapabilities: [SYS_MODULE]":                                       "/extraCapabilities/0",
		"extraCapabilities: [NET_RAW, NET_RAW]":                                 "/extraCapabilities",
		"resources: {limits: {memory: much}}":                                   "/resources/limits/memory",
		"resources: {limit: {memory: 1Gi}}":                                     "limit",
		"nodeSelector: {a: 1}":                                                  "/nodeSelector/a",
		"privileged: true":                                                      "privileged",
		"tolerations: []":                                                       "tolerations",
		"openshift: true":                                                       "/openshift",
		"namespace: {create: 1}":                                                "/namespace/create",
		"podLabels: {app.kubernetes.io/name: other}":                            "/podLabels",
		"podAnnotations: {required-plugins.noderesource.dev: '[\"meshnetd\"]'}": "/podAnnotations",
	} {
		_, err := render(t, values)
		if err == nil {
			t.Errorf("%s: was taken", values)
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "values don't meet the specifications of the schema") {
			t.Errorf("%s: refused without a word of %q:\n%v", values, want, err)
		}
	}
}

// What looks like the above, and is good.
func TestTaken(t *testing.T) {
	for _, values := range []string{
		"image: {repository: \"registry.invalid:5000/meshnetd\"}",
		"image: {tag: v1.2.3-4-gabcdef}",
		"config: \"# host_netns\\nlog.level = 'debug'\\n[[annotations]]\\nannotation = 'a/b'\"",
		"netns: {directories: [/var/lib/my-runtime/netns]}",
		"metrics: {enabled: true, service: true}",
		"resources: {requests: {cpu: 1, memory: 64Mi}}",
		"podAnnotations: {example.org/note: 'yes'}",
		"global: {any: thing}",
	} {
		if _, err := render(t, values); err != nil {
			t.Errorf("%s: %v", values, err)
		}
	}
}
