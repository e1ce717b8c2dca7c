// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

const annotation = "annotation"

// What intent reads of the annotations, and what is read of the environment of the injector's containers.
var (
	listKeys = []string{keyIncludeOutboundIPs, keyExcludeOutboundIPs, keyIncludeInbound, keyExcludeInbound, keyIncludeOutbound,
		keyExcludeOutbound, keyExcludeInterfaces}
	textKeys  = []string{keyMode, keyOverrides, keyProxyConfig, keyOptInPort, keyOptInUserID, keyOptInGroupID}
	listNames = []string{envOwnerGroups, envOwnerGroupsExclude}
	textNames = []string{envDisabled, envDNSCapture, envDualStack, envInvalidDrop, envLoopback}
)

// keys are all that is looked at, of labels too.
var keys = slices.Concat([]string{keyInject, keyStatus, keyTemplates, keyOptIn, keyRequired, keyRerouteInterfaces, keyKubevirtInterfaces},
	listKeys, textKeys, buildPodKeys)

// inputs are what the pod asks for: the marks, and what intent reads.
func inputs(pod rules.Pod) []rules.Input {
	all := append(make([]rules.Input, 0, 17+8*min(len(pod.Containers), 2)), rules.TextInput(annotation, keyStatus, pod.Annotations[keyStatus]),
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
	for _, of := range [...]struct{ name, arguments, environment string }{
		{containerValidation, "container " + containerValidation, "container " + containerValidation + " environment"},
		{containerProxy, "container " + containerProxy, "container " + containerProxy + " environment"},
	} {
		c := pod.Container(of.name)
		if c == nil {
			continue
		}
		all = append(all, rules.ArgumentsInput(of.arguments, *c))
		if of.name == containerProxy { // nobody reads the other's lists
			for _, name := range listNames {
				all = append(all, rules.ListInput(of.environment, name, c.Env[name]))
			}
		}
		for _, name := range textNames {
			all = append(all, rules.TextInput(of.environment, name, c.Env[name]))
		}
	}
	return all
}
