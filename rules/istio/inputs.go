// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

const annotation = "annotation"

// What intent reads of the annotations, and what of the proxy's environment.
var (
	listKeys = []string{keyIncludeOutboundIPs, keyExcludeOutboundIPs, keyIncludeInbound, keyExcludeInbound, keyIncludeOutbound,
		keyExcludeOutbound, keyExcludeInterfaces}
	textKeys  = []string{keyMode, keyOverrides, keyProxyConfig, keyOptInPort, keyOptInUserID, keyOptInGroupID}
	listNames = []string{envOwnerGroups, envOwnerGroupsExclude}
	textNames = []string{envDNSCapture, envDualStack, envInvalidDrop, envLoopback}
)

// keys are all that is looked at, of labels too.
var keys = slices.Concat([]string{keyInject, keyStatus, keyTemplates, keyOptIn, keyRerouteInterfaces, keyKubevirtInterfaces},
	listKeys, textKeys, buildPodKeys)

// inputs are what the pod asks for: the marks, and what intent reads.
func inputs(pod rules.Pod) []rules.Input {
	all := append(make([]rules.Input, 0, 24), rules.TextInput(annotation, keyStatus, pod.Annotations[keyStatus]),
		rules.TextInput(annotation, keyTemplates, pod.Annotations[keyTemplates]))
	for _, key := range listKeys {
		all = append(all, rules.ListInput(annotation, key, pod.Annotations[key]))
	}
	for _, key := range []string{keyRerouteInterfaces, keyKubevirtInterfaces} {
		w := rules.ListInput(annotation, key, pod.Annotations[key])
		w.Items *= max(1, rules.ListInput(annotation, keyIncludeOutboundIPs, pod.Annotations[keyIncludeOutboundIPs]).Items) // a rule for each range
		all = append(all, w)
	}
	for _, key := range textKeys {
		all = append(all, rules.TextInput(annotation, key, pod.Annotations[key]))
	}
	for _, name := range []string{containerValidation, containerProxy} {
		c := pod.Container(name)
		if c == nil {
			continue
		}
		arguments := rules.Input{Kind: "container " + name, Name: "arguments"}
		for _, arg := range c.Args {
			arguments.Bytes += len(arg) + 1
		}
		all = append(all, arguments)
	}
	if proxy := pod.Container(containerProxy); proxy != nil {
		const environment = "container " + containerProxy + " environment"
		for _, name := range listNames {
			all = append(all, rules.ListInput(environment, name, proxy.Env[name]))
		}
		for _, name := range textNames {
			all = append(all, rules.TextInput(environment, name, proxy.Env[name]))
		}
	}
	return all
}
