// SPDX-License-Identifier: Apache-2.0

// Package manifest reads a Kubernetes Pod manifest, YAML or JSON, into what rules know of a pod.
package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/rules"
)

// document mirrors the parts of a manifest that matter here. Fields that are not here are not looked at.
// Each type has a name because the decoder's messages show it.
type document struct {
	Kind     string   `yaml:"kind"`
	Metadata metadata `yaml:"metadata"`
	Spec     spec     `yaml:"spec"`
	Status   status   `yaml:"status"`
}

type metadata struct {
	Name         string            `yaml:"name"`
	GenerateName string            `yaml:"generateName"`
	Namespace    string            `yaml:"namespace"`
	UID          string            `yaml:"uid"`
	Labels       map[string]string `yaml:"labels"`
	Annotations  map[string]string `yaml:"annotations"`
}

type spec struct {
	HostNetwork     bool        `yaml:"hostNetwork"`
	RuntimeClass    string      `yaml:"runtimeClassName"`
	SecurityContext podSecurity `yaml:"securityContext"`
	InitContainers  []container `yaml:"initContainers"`
	Containers      []container `yaml:"containers"`
}

type status struct {
	PodIP  address `yaml:"podIP"`
	PodIPs []podIP `yaml:"podIPs"`
}

type podIP struct {
	IP address `yaml:"ip"`
}

type container struct {
	Name            string          `yaml:"name"`
	Image           string          `yaml:"image"`
	Command         []string        `yaml:"command"`
	Args            []string        `yaml:"args"`
	Env             []variable      `yaml:"env"`
	SecurityContext securityContext `yaml:"securityContext"`
}

type variable struct {
	Name      string    `yaml:"name"`
	Value     string    `yaml:"value"`
	ValueFrom yaml.Node `yaml:"valueFrom"`
}

type securityContext struct {
	RunAsUser    *id          `yaml:"runAsUser"`
	RunAsGroup   *id          `yaml:"runAsGroup"`
	Privileged   bool         `yaml:"privileged"`
	Capabilities capabilities `yaml:"capabilities"`
}

type capabilities struct {
	Add  []string `yaml:"add"`
	Drop []string `yaml:"drop"`
}

// hasRaw reports whether a list of capabilities has NET_RAW.
func hasRaw(list []string) bool {
	return slices.ContainsFunc(list, func(name string) bool {
		return slices.Contains([]string{"ALL", "NET_RAW"}, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
	})
}

// dropsNetRaw reports whether a container has no NET_RAW whatever the runtime gives by default.
func (s securityContext) dropsNetRaw() bool {
	return !s.Privileged && hasRaw(s.Capabilities.Drop) && !hasRaw(s.Capabilities.Add)
}

// podSecurity is what a pod says for all of its containers.
type podSecurity struct {
	securityContext    `yaml:",inline"`
	FSGroup            *id  `yaml:"fsGroup"`
	SupplementalGroups []id `yaml:"supplementalGroups"`
}

// id is a user or group id, as wide as Kubernetes takes it.
type id int64

// UnmarshalYAML refuses what is no id, with its line.
func (i *id) UnmarshalYAML(node *yaml.Node) error {
	n, err := strconv.ParseInt(node.Value, 10, 32)
	if err != nil || n < 0 {
		return fmt.Errorf("line %d: %q is not a user or group id (0 to 2147483647)", node.Line, node.Value)
	}
	*i = id(n)
	return nil
}

func (i *id) value() *int64 { return (*int64)(i) }

// address is an IP address; "" is none.
type address struct{ netip.Addr }

// UnmarshalYAML refuses what is no address, with its line.
func (a *address) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: not an IP address", node.Line)
	}
	if node.Value == "" {
		return nil
	}
	addr, err := netip.ParseAddr(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is not an IP address", node.Line, node.Value)
	}
	a.Addr = addr
	return nil
}

// longest is how many bytes a manifest may have; the API server takes no object as long.
const longest = 4 << 20

// Read reads one manifest. Errors name the line.
func Read(r io.Reader) (rules.Pod, error) {
	text, err := io.ReadAll(io.LimitReader(r, longest+1))
	if err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	if len(text) > longest {
		return rules.Pod{}, fmt.Errorf("manifest: longer than %d bytes, and no pod is", longest)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	err = decoder.Decode(&root)
	if err != nil && json.Valid(text) {
		decoder = yaml.NewDecoder(bytes.NewReader(plainJSON(text)))
		err = decoder.Decode(&root)
	}
	if errors.Is(err, io.EOF) {
		return rules.Pod{}, errors.New("manifest: empty")
	} else if err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	var d document
	if err := root.Decode(&d); err != nil {
		return rules.Pod{}, fmt.Errorf("manifest: %w", err)
	}
	if d.Kind != "Pod" {
		return rules.Pod{}, fmt.Errorf("manifest: kind is %q, want Pod (of a workload, give one of its pods: kubectl get pod NAME -o yaml)", d.Kind)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return rules.Pod{}, errors.New("manifest: more than one document; give one Pod")
	}
	return d.pod(), nil
}

// plainJSON writes strings without the escapes that YAML does not know: "\/" and pairs of surrogates.
func plainJSON(text []byte) []byte {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return text
	}
	var plain bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return text
	}
	return plain.Bytes()
}

func (d document) pod() rules.Pod {
	pod := rules.Pod{
		Namespace:   d.Metadata.Namespace,
		Name:        d.Metadata.Name,
		UID:         d.Metadata.UID,
		Labels:      d.Metadata.Labels,
		Annotations: d.Metadata.Annotations,
		HostNetwork: d.Spec.HostNetwork,

		// The class is usually named like its handler, which a manifest does not have.
		RuntimeHandler: d.Spec.RuntimeClass,
	}
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	if pod.Name == "" {
		pod.Name = d.Metadata.GenerateName
	}
	for _, c := range append(d.Spec.InitContainers, d.Spec.Containers...) {
		pod.Containers = append(pod.Containers, c.container(d.Spec.SecurityContext))
	}
	pod.Complete = pod.Containers != nil
	for _, entry := range d.Status.PodIPs {
		if entry.IP.IsValid() {
			pod.IPs = append(pod.IPs, entry.IP.Addr)
		}
	}
	if len(pod.IPs) == 0 && d.Status.PodIP.IsValid() {
		pod.IPs = []netip.Addr{d.Status.PodIP.Addr}
	}
	return pod
}

// container returns what a runtime would tell of the container, as far as that does not depend on its image.
func (c container) container(pod podSecurity) rules.Container {
	env := map[string]string{}
	for _, e := range c.Env {
		if e.ValueFrom.IsZero() { // else the manifest does not hold its value
			env[e.Name] = e.Value
		}
	}
	return rules.Container{Name: c.Name, Image: qualified(c.Image), Args: slices.Concat(c.Command, c.Args),
		ArgsOnly: len(c.Command) == 0 && len(c.Args) > 0, Env: env,
		UID:    cmp.Or(c.SecurityContext.RunAsUser, pod.RunAsUser).value(),
		GID:    cmp.Or(c.SecurityContext.RunAsGroup, pod.RunAsGroup).value(),
		Groups: pod.groups(), DropsNetRaw: c.SecurityContext.dropsNetRaw()}
}

// qualified returns the name of an image that says its registry, or "": what a runtime makes of a shorter one is not
// known.
func qualified(image string) string {
	if registry, _, ok := strings.Cut(image, "/"); !ok || !strings.ContainsAny(registry, ".:") {
		return ""
	}
	return image
}

// groups returns the additional groups of every container of the pod.
func (p podSecurity) groups() []uint32 {
	var all []uint32
	for _, group := range p.SupplementalGroups {
		all = append(all, uint32(group))
	}
	if p.FSGroup != nil {
		all = append(all, uint32(*p.FSGroup))
	}
	return all
}
