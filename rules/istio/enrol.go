// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// What the injector and its users write on a pod.
const (
	keyInject      = "sidecar.istio.io/inject" // label or annotation
	keyStatus      = "sidecar.istio.io/status"
	keyTemplates   = "inject.istio.io/templates"
	keyOverrides   = "proxy.istio.io/overrides"
	keyProxyConfig = "proxy.istio.io/config"

	// The opt-in of istio-pod-network-controller, and the values its users may set with it.
	keyOptIn        = "istio-pod-network-controller/initialize"
	keyOptInPort    = "pod-network-controller.istio.io/envoy-port"
	keyOptInUserID  = "pod-network-controller.istio.io/envoy-userid"
	keyOptInGroupID = "pod-network-controller.istio.io/envoy-groupid"

	containerProxy      = "istio-proxy"
	containerValidation = "istio-validation"
	containerInit       = "istio-init"
)

// Annotations that OpenShift writes on the pods of its own deployments and builds.
var buildPodKeys = []string{"openshift.io/deployer-pod-for.name", "openshift.io/build.name"}

// Templates of the injector whose proxy needs no redirection.
var proxyOnlyTemplates = []string{"gateway", "grpc-agent", "grpc-simple"}

// Decide follows Istio's CNI plugin, as far as the facts about the pod allow.
func (m Mesh) Decide(pod rules.Pod) rules.Decision {
	decide := func(action rules.Action, reason rules.Reason, detail string) rules.Decision {
		return rules.Decision{Mesh: m.Name(), Action: action, Reason: reason, Detail: detail}
	}
	reason, detail, err := m.exempt(pod)
	if err != nil {
		return decide(rules.Rejected, rules.ReasonBadInput, err.Error())
	}
	if reason != "" {
		return decide(rules.Skip, reason, detail)
	}
	intent, err := m.intent(pod)
	if errors.Is(err, errInterceptionNone) {
		return decide(rules.Skip, rules.ReasonInterceptionNone, keyMode+" is NONE: the pod asks for no redirection")
	}
	if err != nil {
		return decide(rules.Rejected, rules.ReasonBadInput, err.Error())
	}
	d := decide(rules.Enrol, rules.ReasonInjected, "annotation "+keyStatus+" is present")
	if _, injected := pod.Annotations[keyStatus]; !injected {
		d.Reason, d.Detail = rules.ReasonOptIn, "annotation "+keyOptIn+` is "true"`
	}
	d.Intent = intent
	d.Planner = func(ips []netip.Addr) (rules.Plan, error) { return intent.plan(ips, m.Footprint()) }
	return d
}

// exempt returns why a pod is not to be touched, or "" for one that is to be redirected.
func (m Mesh) exempt(pod rules.Pod) (rules.Reason, string, error) {
	if pod.HostNetwork {
		return rules.ReasonHostNetwork, "the pod shares the node's network namespace", nil
	}
	if slices.Contains(m.Defaults.ExcludeNamespaces, pod.Namespace) {
		return rules.ReasonNamespaceExcluded, "namespace " + pod.Namespace + " is excluded by the node's configuration", nil
	}
	for _, key := range buildPodKeys {
		if _, ok := pod.Annotations[key]; ok {
			return rules.ReasonBuildPod, "annotation " + key + " marks a pod of OpenShift's own", nil
		}
	}
	status, injected := pod.Annotations[keyStatus]
	if !injected && pod.Annotations[keyOptIn] != "true" {
		return rules.ReasonNotInjected, "no annotation " + keyStatus, nil
	}
	if place, disabled := injectDisabled(pod); disabled {
		return rules.ReasonInjectDisabled, place + " is false", nil
	}
	names, err := statusContainers(status)
	if err != nil {
		return "", "", err
	}
	return sidecarMissing(pod, names)
}

// injectDisabled looks at the label before the annotation; a value that is no boolean says nothing.
func injectDisabled(pod rules.Pod) (place string, disabled bool) {
	value, place := pod.Annotations[keyInject], "annotation "+keyInject
	if label, ok := pod.Labels[keyInject]; ok {
		value, place = label, "label "+keyInject
	}
	inject, err := strconv.ParseBool(value)
	return place, err == nil && !inject
}

// sidecarMissing looks for the sidecar among the pod's containers, or where they are not known among the
// names that the injector wrote down.
func sidecarMissing(pod rules.Pod, injected []string) (rules.Reason, string, error) {
	if slices.Contains(injected, containerInit) || pod.Container(containerInit) != nil {
		return rules.ReasonInitContainer, "init container " + containerInit + " sets the pod up", nil
	}
	proxy := pod.Container(containerProxy)
	if pod.Containers != nil && proxy == nil {
		return rules.ReasonNoProxy, "the pod has no container " + containerProxy, nil
	}
	if pod.Containers == nil && len(injected) > 0 && !slices.Contains(injected, containerProxy) {
		return rules.ReasonNoProxy, "annotation " + keyStatus + " names no container " + containerProxy, nil
	}
	if proxy != nil {
		if disabled, err := strconv.ParseBool(proxy.Env["DISABLE_ENVOY"]); err == nil && disabled {
			return rules.ReasonNotSidecar, "container " + containerProxy + " runs without Envoy (DISABLE_ENVOY)", nil
		}
		if len(proxy.Args) >= 2 && proxy.Args[0] == "proxy" {
			if kind := proxy.Args[1]; kind != "" && kind != "sidecar" {
				return rules.ReasonNotSidecar, "container " + containerProxy + " is a " + kind, nil
			}
			return "", "", nil
		}
	}
	templates := strings.Split(pod.Annotations[keyTemplates], ",")
	for i := range templates {
		templates[i] = strings.TrimSpace(templates[i])
	}
	for _, name := range proxyOnlyTemplates {
		if slices.Contains(templates, name) && !slices.Contains(templates, "sidecar") {
			return rules.ReasonNotSidecar, "annotation " + keyTemplates + " names " + name, nil
		}
	}
	return "", "", nil
}

// statusContainers returns the names of the containers that the injector added. Istio itself asks only
// whether the annotation is there, so JSON that is no object, or nothing at all, names none; what is not
// JSON is refused.
func statusContainers(status string) ([]string, error) {
	if strings.TrimSpace(status) == "" {
		return nil, nil
	}
	var value any
	if err := json.Unmarshal([]byte(status), &value); err != nil {
		return nil, badJSON("annotation "+keyStatus, status, err)
	}
	object, _ := value.(map[string]any)
	var names []string
	for _, key := range []string{"initContainers", "containers"} {
		list, isList := object[key].([]any)
		if object[key] != nil && !isList {
			return nil, &rules.InputError{Place: "annotation " + keyStatus, Value: status, Problem: key + " is not a list"}
		}
		for i, entry := range list {
			name, ok := entry.(string)
			if !ok {
				return nil, &rules.InputError{Place: "annotation " + keyStatus, Value: status,
					Problem: fmt.Sprintf("%s[%d] is not a string", key, i)}
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// badJSON adds the offset to what encoding/json says.
func badJSON(place, value string, err error) error {
	problem := "not JSON: " + err.Error()
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		problem = fmt.Sprintf("not JSON at byte %d: %s", syntax.Offset, syntax.Error())
	case errors.As(err, &kind):
		problem = fmt.Sprintf("%s before byte %d is a %s, which cannot be", kind.Field, kind.Offset, kind.Value)
	}
	return &rules.InputError{Place: place, Value: value, Problem: problem}
}
