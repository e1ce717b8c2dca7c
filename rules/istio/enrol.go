// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// What the injector and its users write on a pod.
const (
	keyInject      = "sidecar.istio.io/inject" // label or annotation
	keyStatus      = "sidecar.istio.io/status"
	keyTemplates   = "inject.istio.io/templates"
	keyOverrides   = "proxy.istio.io/overrides"
	keyProxyConfig = "proxy.istio.io/config"
	keyRequired    = "required-plugins.noderesource.dev" // the runtime's

	// The opt-in of istio-pod-network-controller, and the values its users may set with it.
	keyOptIn        = "istio-pod-network-controller/initialize"
	keyOptInPort    = "pod-network-controller.istio.io/envoy-port"
	keyOptInUserID  = "pod-network-controller.istio.io/envoy-userid"
	keyOptInGroupID = "pod-network-controller.istio.io/envoy-groupid"

	containerProxy      = "istio-proxy"
	containerValidation = "istio-validation"
	containerInit       = "istio-init"

	controller = "istio-pod-network-controller" // its image, which waits in its pods

	agent    = "pilot-agent"    // the program of all three
	iptables = "istio-iptables" // its sub-command in the latter two, and once a program of its own
)

// Labels and annotations that OpenShift writes on the pods of its own deployments and builds.
const keyDeployer = "openshift.io/deployer-pod-for.name"

var buildPodKeys = []string{keyDeployer, "openshift.io/build.name"}

// Templates of the injector whose proxy needs no redirection.
var proxyOnlyTemplates = []string{"gateway", "grpc-agent", "grpc-simple"}

// injected reports whether the injector wrote its status on a pod.
func injected(pod rules.Pod) bool {
	_, there := pod.Annotations[keyStatus]
	return there
}

// belongs follows Istio's CNI plugin, as far as the facts about the pod allow.
func (d Defaults) belongs(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	if d.OpenShift {
		for _, key := range buildPodKeys {
			_, annotated := pod.Annotations[key]
			if _, labelled := pod.Labels[key]; labelled || annotated {
				return mesh.Outside(rules.ReasonBuildPod, key+" marks a pod of OpenShift's own")
			}
		}
		s.Add("no label or annotation of OpenShift's deployer and build pods")
	}
	belongs := mesh.Injected("annotation " + keyStatus + " is present")
	switch {
	case injected(pod):
		s.Add("annotation ", keyStatus, " is present: the injector has been here")
	case pod.Annotations[keyOptIn] == "true":
		s.Add("annotation ", keyOptIn, ` is "true"`)
		// A deployer gets it from the pod template that it deploys. Nobody else's word is given up here: the author opts in.
		if _, deployer := pod.Labels[keyDeployer]; deployer {
			return mesh.Outside(rules.ReasonBuildPod, "label "+keyDeployer+" marks a deployer of OpenShift's")
		}
		belongs.Reason, belongs.Detail = rules.ReasonOptIn, "annotation "+keyOptIn+` is "true"`
	default:
		return mesh.Outside(rules.ReasonNotInjected, "no annotation "+keyStatus)
	}
	if place, disabled := injectDisabled(pod); disabled {
		return mesh.Outside(rules.ReasonInjectDisabled, place+" is false")
	}
	s.Add("neither label nor annotation ", keyInject, " is false")
	return belongs
}

// reading is an intent while it is read.
type reading struct {
	*mesh.Reader
	*Intent
}

// whole reads what a pod wants, unless it has no sidecar or asks for no redirection.
func (in reading) whole(d Defaults) error {
	names, err := statusContainers(in.Pod.Annotations[keyStatus])
	if err != nil {
		return err
	}
	if in.Steps != nil && len(names) > 0 {
		in.Add("annotation ", keyStatus, " lists ", strings.Join(names, ", "))
	}
	if reason, detail := sidecarMissing(in.Pod, names, in.Steps); reason != "" {
		return mesh.Outside(reason, detail)
	}
	if in.Pod.Annotations[keyMode] == modeNone {
		return mesh.Outside(rules.ReasonInterceptionNone, keyMode+" is NONE: the pod asks for no redirection")
	}
	if err := in.Within(inputs(in.Pod)); err != nil {
		return err
	}
	if err := in.intent(d, names); err != nil {
		return err
	}
	in.Add("the annotations and the containers that are known say what is to be redirected, and contradict nothing")
	if in.DNSCapture {
		in.Add(mesh.LookupsBehind)
	}
	return nil
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

// sidecarMissing looks for the sidecar among the pod's containers, and as long as those are not all known,
// among the names that the injector wrote down.
func sidecarMissing(pod rules.Pod, injected []string, s *mesh.Steps) (rules.Reason, string) {
	switch {
	case waits(pod):
		s.Add("init container ", containerInit, " is istio-pod-network-controller's, which waits and sets nothing up")
	case slices.Contains(injected, containerInit) || pod.Container(containerInit) != nil:
		return rules.ReasonInitContainer, initSets(pod)
	default:
		s.Add("no init container ", containerInit, " that would set the pod up")
	}
	proxy := pod.Container(containerProxy)
	if proxy != nil {
		return notSidecar(pod, *proxy, s)
	}
	if pod.Complete {
		return rules.ReasonNoProxy, "the pod has no container " + containerProxy
	}
	if len(injected) > 0 && !slices.Contains(injected, containerProxy) {
		return rules.ReasonNoProxy, "annotation " + keyStatus + " names no container " + containerProxy
	}
	s.Add("container ", containerProxy, " is not known yet: it may be a sidecar")
	return notSidecarTemplate(pod, s)
}

// initSets says who sets the pod up, and where its injector was to leave that to a plugin of the runtime and did not.
func initSets(pod rules.Pod) string {
	said := "init container " + containerInit + " sets the pod up"
	if pod.Annotations[keyRequired] != "" {
		said += ", although annotation " + keyRequired + " asks for a plugin that would: the injector is not in CNI mode " +
			"(pilot.cni.enabled; for istioctl components.cni.enabled, which overwrites it)"
	}
	return said
}

// waits reports whether the init container of that name only waits for istio-pod-network-controller, whose pods opt in. It is
// told from Istio's own by its image or its one argument; as long as it is not known, the opt-in says that somebody on the node
// is to set the pod up.
func waits(pod rules.Pod) bool {
	c := pod.Container(containerInit)
	switch {
	case pod.Annotations[keyOptIn] != "true":
		return false
	case c == nil:
		return !pod.Complete
	}
	return strings.Contains(c.Image[strings.LastIndex(c.Image, "/")+1:], controller) || len(c.Args) > 0 && c.Args[len(c.Args)-1] == "init"
}

// notSidecar returns why the proxy of the pod needs no redirection, or "".
func notSidecar(pod rules.Pod, proxy rules.Container, s *mesh.Steps) (rules.Reason, string) {
	disabled := proxy.Env[envDisabled]
	disabled = disabled[:min(len(disabled), len("false")+1)] // an error has a copy of all of it, which nobody has measured yet
	if disabled, err := strconv.ParseBool(disabled); err == nil && disabled {
		return rules.ReasonNotSidecar, "container " + containerProxy + " runs without Envoy (" + envDisabled + ")"
	}
	switch kind := proxyKind(proxy.Args); kind {
	case "":
		s.Add("container ", containerProxy, " does not say what it runs: it may be a sidecar")
		return notSidecarTemplate(pod, s)
	case "sidecar":
		s.Add("container ", containerProxy, " runs a sidecar")
		return "", ""
	default:
		return rules.ReasonNotSidecar, "container " + containerProxy + " is a " + kind
	}
}

// proxyKind returns what "pilot-agent proxy KIND" runs, or "" where the arguments do not say. A manifest has only the
// arguments, a runtime also the agent's path before them. Anywhere else the words prove nothing: that a pod needs no rules
// must be beyond doubt.
func proxyKind(args []string) string {
	if len(args) > 0 && isAgent(args[0]) {
		args = args[1:]
	}
	if len(args) < 2 || args[0] != "proxy" || strings.HasPrefix(args[1], "-") {
		return ""
	}
	return args[1]
}

// isAgent reports whether a word is the path of a program, or the agent's bare name. No sub-command of the
// agent has a slash in it.
func isAgent(word string) bool { return strings.Contains(word, "/") || word == agent }

func notSidecarTemplate(pod rules.Pod, s *mesh.Steps) (rules.Reason, string) {
	templates := strings.Split(pod.Annotations[keyTemplates], ",")
	for i := range templates {
		templates[i] = strings.TrimSpace(templates[i])
	}
	for _, name := range proxyOnlyTemplates {
		if slices.Contains(templates, name) && !slices.Contains(templates, "sidecar") {
			return rules.ReasonNotSidecar, "annotation " + keyTemplates + " names " + name
		}
	}
	s.Add("annotation ", keyTemplates, " names no gateway and no proxyless client")
	return "", ""
}

// proxies are the injector's containers that run as the proxy.
var proxies = []rules.Sidecar{
	{Name: containerProxy, Command: []string{agent, "proxy"}},
	{Name: containerValidation, Command: []string{agent, iptables}},
}

// sidecars returns the proxies that the injector listed. An injector that listed nothing is an old one, which adds the
// proxy alone.
func sidecars(injected []string) []rules.Sidecar {
	first, end := 0, len(proxies)
	if len(injected) > 0 && !slices.Contains(injected, containerProxy) {
		first++
	}
	if !slices.Contains(injected, containerValidation) {
		end--
	}
	return proxies[first:end]
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
