// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
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
	HostPID         bool        `yaml:"hostPID"`
	RuntimeClass    string      `yaml:"runtimeClassName" json:"runtimeClassName"`
	SecurityContext podSecurity `yaml:"securityContext"`
	InitContainers  []container `yaml:"initContainers"`
	Containers      []container `yaml:"containers"`
	Ephemeral       []container `yaml:"ephemeralContainers" json:"ephemeralContainers"`

	words budget // of all containers
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
	EnvFrom         []yaml.Node     `yaml:"envFrom"`
	RestartPolicy   string          `yaml:"restartPolicy"`
	SecurityContext securityContext `yaml:"securityContext"`

	arguments, environment budget // what they have by themselves, in protobuf
	long, hidden           bool   // the arguments are too long to be known; the environment is, or others say it
}

type variable struct {
	Name      string     `yaml:"name"`
	Value     string     `yaml:"value"`
	ValueFrom *valueFrom `yaml:"valueFrom"`
}

// valueFrom says where the kubelet looks a value up.
type valueFrom struct {
	FieldRef *fieldRef `yaml:"fieldRef"`
}

type fieldRef struct {
	FieldPath string `yaml:"fieldPath"`
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

// capability returns a capability's name as it stands here, however a pod's author writes it.
func capability(name string) string { return strings.TrimPrefix(strings.ToUpper(name), "CAP_") }

// has reports whether a list of capabilities has one.
func has(list []string, wanted string) bool {
	return slices.ContainsFunc(list, func(name string) bool { return slices.Contains([]string{"ALL", wanted}, capability(name)) })
}

// powers returns what a container may do to its network besides what the runtime gives it by default.
func (s securityContext) powers() (p rules.Powers) {
	p.Privileged = s.Privileged
	p.NetAdmin = has(s.Capabilities.Add, "NET_ADMIN")
	p.NetRaw = has(s.Capabilities.Add, "NET_RAW")
	p.DropsNetRaw = !s.Privileged && !p.NetRaw && has(s.Capabilities.Drop, "NET_RAW")
	return p
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

// UnmarshalJSON refuses what is no id.
func (i *id) UnmarshalJSON(text []byte) error {
	return i.UnmarshalYAML(&yaml.Node{Value: string(text)})
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

// UnmarshalJSON refuses what is no address.
func (a *address) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &value); err != nil {
		return err
	}
	return a.UnmarshalYAML(&yaml.Node{Kind: yaml.ScalarNode, Value: value})
}

func (d *document) pod() rules.Pod {
	pod := rules.Pod{
		Namespace:   d.Metadata.Namespace,
		Name:        d.Metadata.Name,
		UID:         d.Metadata.UID,
		Labels:      d.Metadata.Labels,
		Annotations: d.Metadata.Annotations,
		HostNetwork: d.Spec.HostNetwork,
		HostPID:     d.Spec.HostPID,

		// The class is usually named like its handler, which a manifest does not have.
		RuntimeHandler: d.Spec.RuntimeClass,
	}
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	if pod.Name == "" {
		pod.Name = d.Metadata.GenerateName
	}
	groups := d.Spec.SecurityContext.groups() // which all containers share
	for _, list := range []struct {
		containers []container
		phase      rules.Phase
	}{{d.Spec.InitContainers, rules.PhaseInit}, {d.Spec.Containers, ""}, {d.Spec.Ephemeral, rules.PhaseDebug}} {
		for _, c := range list.containers {
			pod.Containers = append(pod.Containers, d.container(c, list.phase, groups))
		}
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
func (d *document) container(c container, phase rules.Phase, groups []uint32) rules.Container {
	if phase == rules.PhaseInit && c.RestartPolicy == "Always" {
		phase = rules.PhaseSidecar
	}
	env := d.environment(c)
	args := d.arguments(c, env)
	return rules.Container{Name: c.Name, Image: qualified(c.Image), Args: args, ArgsOnly: len(c.Command) == 0 && len(args) > 0, Env: env,
		UID:    cmp.Or(c.SecurityContext.RunAsUser, d.Spec.SecurityContext.RunAsUser).value(),
		GID:    cmp.Or(c.SecurityContext.RunAsGroup, d.Spec.SecurityContext.RunAsGroup).value(),
		Groups: groups, Phase: phase, Powers: c.SecurityContext.powers()}
}

// longestImage is how many bytes the name of an image may have. No runtime takes one half as long.
const longestImage = 1 << 10

// qualified returns the name of an image that says its registry, or "": what a runtime makes of a shorter one is not
// known.
func qualified(image string) string {
	if registry, _, ok := strings.Cut(image, "/"); !ok || !strings.ContainsAny(registry, ".:") || len(image) > longestImage {
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
