// SPDX-License-Identifier: Apache-2.0

//go:build linux

package podsapi

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Message has texts, bytes and numbers in its fields, by number.
func Message(parts ...any) (all []byte) {
	for i := 0; i < len(parts); i += 2 {
		number := protowire.Number(parts[i].(int))
		switch value := parts[i+1].(type) {
		case string:
			all = protowire.AppendString(protowire.AppendTag(all, number, protowire.BytesType), value)
		case []byte:
			all = protowire.AppendBytes(protowire.AppendTag(all, number, protowire.BytesType), value)
		case int:
			all = protowire.AppendVarint(protowire.AppendTag(all, number, protowire.VarintType), uint64(value))
		}
	}
	return all
}

// Pod is the v1.Pod by which a lab's pod with these containers would have been made.
func Pod(pod lab.PodSpec, containers ...lab.ContainerSpec) []byte {
	namespace := pod.Namespace
	if namespace == "" {
		namespace = "default"
	}
	spec := Message()
	if pod.HostNetwork {
		spec = Message(11, 1)
	}
	for _, c := range containers {
		spec = append(spec, Message(2, container(c))...)
	}
	return Message(1, Message(1, pod.Name, 3, namespace, 5, pod.UID), 2, spec)
}

// WithInit is the pod with init containers as well. Of a message that stands twice, both parts count.
func WithInit(pod []byte, containers ...lab.ContainerSpec) []byte {
	for _, c := range containers {
		pod = append(pod, Message(2, Message(20, container(c)))...)
	}
	return pod
}

func container(c lab.ContainerSpec) []byte {
	message := Message(1, c.Name, 15, Message(1, capabilities(c.Capabilities), 4, int(c.User), 8, int(c.Group)))
	for _, word := range c.Command {
		message = append(message, Message(3, word)...)
	}
	for _, word := range c.Args {
		message = append(message, Message(4, word)...)
	}
	for _, variable := range c.Env {
		name, value, _ := strings.Cut(variable, "=")
		message = append(message, Message(7, Message(1, name, 2, value))...)
	}
	return message
}

func capabilities(added []string) (message []byte) {
	for _, name := range added {
		message = append(message, Message(1, name)...)
	}
	return message
}
