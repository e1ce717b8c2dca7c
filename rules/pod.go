// SPDX-License-Identifier: Apache-2.0

package rules

import "net/netip"

// Pod is what is known of a pod when it is decided about: from a sandbox event its metadata and
// addresses, from a manifest its containers too.
type Pod struct {
	SandboxID      string
	UID            string
	Namespace      string
	Name           string
	RuntimeHandler string // "" is the runtime's default
	Labels         map[string]string
	Annotations    map[string]string
	Unread         []string // keys of annotations that look like a mesh's, and that none reads; bounded, and of a remembered pod only
	Said           int      // bytes of labels and annotations that decide, where they were too many to be kept (Remembered)

	NetNS        string // path of the network namespace; "" where it is not known
	NetNSOfPause bool   // the runtime names none, so NetNS is the pause process's, as far as /proc shows it
	HostNetwork  bool   // proven to share the host's network namespace
	HostPID      bool   // it shares the host's process ids: of a manifest or by the kubelet only

	IPs        []netip.Addr // as the runtime or the manifest orders them; nil where they are not known
	Containers []Container  // init containers first; nil where they are not known
	Complete   bool         // Containers is the whole list, as in a manifest; a runtime tells them one by one
	Specified  bool         // the kubelet has told what they are given
	Unreadable string       // why that is not known although the kubelet tells it; "" where it is known, or nobody tells
}

// String returns namespace/name, and the sandbox where there is one.
func (p Pod) String() string {
	s := p.Namespace + "/" + p.Name
	if len(p.SandboxID) > 12 {
		return s + " (sandbox " + p.SandboxID[:12] + ")"
	}
	return s
}

// Container returns the last container of that name, or nil: Kubernetes forbids two of one name, and
// Istio's own plugin takes the last.
func (p Pod) Container(name string) *Container {
	for i := len(p.Containers) - 1; i >= 0; i-- {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// Container is what is known of one container of a pod.
type Container struct {
	Name      string
	Image     string            // as the runtime names it; "" where it is not known
	Args      []string          // of its first process, with the program before them
	ArgsOnly  bool              // Args are without the program, which the image gives: of a manifest only
	Env       map[string]string // without the variables whose value is not known
	UID       *int64            // of its first process; nil where it is not known
	GID       *int64            // of its first process; nil where it is not known
	Groups    []uint32          // its additional groups; none where they are not known
	Phase     Phase
	Powers    Powers
	ByKubelet Values // those values that the kubelet says, where the runtime has not told them
	Said      int    // bytes of arguments and environment that decide, where they were too many to be kept (Bounded)

	Running bool   // its process has been started; known of pods that are taken over only
	NetNS   string // path of the network namespace it joins; "" where it is not known
	MovedBy string // the plugin that gave it another network namespace than its sandbox's; "" is none

	Review *Review // nil where it is not the runtime's last question about the container
}

// Review is what a runtime tells beside a container when it asks about it last of all.
type Review struct {
	Validator bool         // the runtime's own validator is on, which keeps containers back that require an absent plugin
	Required  bool         // the pod requires this plugin for the container
	Changes   []Adjustment // what plugins changed of the container
}

// Adjustment is what a plugin changed of a container.
type Adjustment struct {
	Plugin string
	Field  string // one of the Changed words
	What   string // which one of them; "" where there is one
}

// What plugins can change of a container, and that may matter for its traffic.
const (
	ChangedArguments   = "arguments"
	ChangedEnvironment = "environment"
	ChangedMounts      = "mounts"
	ChangedHooks       = "hooks"
	ChangedDevices     = "devices"
	ChangedNetDevices  = "network devices"
	ChangedSysctls     = "sysctls"
	ChangedNamespaces  = "namespaces"
)

// Around reports whether a change can lead the container's traffic around the pod's rules by itself.
func (c Adjustment) Around() bool {
	switch c.Field {
	case ChangedHooks, ChangedDevices, ChangedNetDevices, ChangedSysctls, ChangedNamespaces:
		return true
	}
	return false
}

// String says it in a sentence's part.
func (c Adjustment) String() string {
	if c.What == "" {
		return c.Plugin + " changed " + c.Field
	}
	return c.Plugin + " changed " + c.Field + " (" + c.What + ")"
}
