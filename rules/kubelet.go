// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Values are some of what is known of a container.
type Values uint8

// What the kubelet may say of it before the runtime does.
const (
	ValueArgs Values = 1 << iota
	ValueEnv
	ValueUser
	ValueGroup
)

// By says in words that follow the place of a value whose word it is, where it is not the runtime's.
func (c Container) By(v Values) string {
	if c.ByKubelet&v != 0 {
		return ", by the kubelet"
	}
	return ""
}

// About reports whether what a kubelet says is about the pod.
func (p Pod) About(pod Pod) bool {
	return p.UID == pod.UID && p.Namespace == pod.Namespace && p.Name == pod.Name
}

// With returns the pod as its runtime and its kubelet tell it together: what the runtime really made counts, and the
// kubelet's word is taken for the rest. A word about another pod is none. The list of containers never counts as complete:
// a mesh must not be left for what a pod's author does not list.
func (p Pod) With(spec Pod) Pod {
	if !spec.About(p) {
		return p
	}
	if spec.Unreadable != "" {
		p.Unreadable = spec.Unreadable
		return p
	}
	p.Specified, p.HostPID = true, p.HostPID || spec.HostPID
	p.HostNetwork = p.HostNetwork || spec.HostNetwork && (p.NetNS == "" || p.NetNSOfPause)
	told := p.Containers
	p.Containers = nil
	for _, c := range spec.Containers {
		if i := slices.IndexFunc(told, func(t Container) bool { return t.Name == c.Name }); i >= 0 {
			c = told[i].With(c)
		} else {
			c = Container{Name: c.Name}.With(c)
		}
		p.Containers = append(p.Containers, c)
	}
	for _, c := range told {
		if p.Container(c.Name) == nil {
			p.Containers = append(p.Containers, c)
		}
	}
	return p
}

// With returns a container that the runtime has told of, or the name of one that it has not, with what the kubelet says
// besides. Of an image nothing is taken from there: a runtime may know it by another name.
func (c Container) With(spec Container) Container {
	if c.Args == nil { // each process has some, so the runtime has not told
		if c.Args, c.ArgsOnly = spec.Args, spec.ArgsOnly; c.Args != nil {
			c.ByKubelet |= ValueArgs
		}
		if c.Env = spec.Env; c.Env != nil {
			c.ByKubelet |= ValueEnv
		}
	}
	if c.UID == nil && c.GID == nil { // a runtime tells all of a user or nothing
		c.Groups = spec.Groups
		if c.UID = spec.UID; c.UID != nil {
			c.ByKubelet |= ValueUser
		}
		if c.GID = spec.GID; c.GID != nil {
			c.ByKubelet |= ValueGroup
		}
	}
	c.Phase, c.Powers = spec.Phase, spec.Powers
	return c
}

// Contradicts names in what a container that the runtime is to create is another one than its pod's specification says, as
// far as that says it: nil where it is not.
func (c Container) Contradicts(spec Container) (what []string) {
	differ := func(a, b *int64) bool { return a != nil && b != nil && *a != *b }
	if differ(c.UID, spec.UID) {
		what = append(what, fmt.Sprintf("user %d instead of %d", *c.UID, *spec.UID))
	}
	if differ(c.GID, spec.GID) {
		what = append(what, fmt.Sprintf("group %d instead of %d", *c.GID, *spec.GID))
	}
	if args := c.Args; args != nil && spec.Args != nil {
		if spec.ArgsOnly { // after the image's program
			args = args[max(0, len(args)-len(spec.Args)):]
		}
		if !slices.Equal(args, spec.Args) {
			what = append(what, "other arguments")
		}
	}
	if c.Env != nil {
		var names []string
		for name, value := range spec.Env {
			if c.Env[name] != value {
				names = append(names, shortened(name, longestValue))
			}
		}
		slices.Sort(names)
		if more := len(names) - mostNamed; more > 0 {
			names = append(names[:mostNamed], fmt.Sprintf("%d more", more))
		}
		if len(names) > 0 {
			what = append(what, "another environment ("+strings.Join(names, ", ")+")")
		}
	}
	return what
}

// unreadable says why a pod is refused of which nobody can know what its containers are given; "" where that is known.
func (d Decision) unreadable(pod Pod) string {
	if pod.Unreadable == "" {
		return ""
	}
	return fmt.Sprintf("whether a container can go around the pod's rules cannot be known, since what the kubelet tells of the pod is not taken in (%s), and %s: "+
		"give the pod, and others of its namespace, fewer and smaller containers", shortened(pod.Unreadable, longestProblem), d.barring())
}

// Untold says why a container is refused that the kubelet has not told of yet.
func (d Decision) Untold(container string) string {
	return fmt.Sprintf("what container %s is given cannot be known yet, since the kubelet tells of its pod and not of it, and %s", shortened(container, longestValue), d.barring())
}

// barring names what refuses containers for what they are given.
func (d Decision) barring() string {
	if d.RefusesPowers {
		return "bypass.privileged in the node's configuration refuses that"
	}
	return d.RefusesRaw + " refuses that (raw)"
}
