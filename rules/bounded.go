// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"
	"strings"
)

// What is kept of a pod takes more than its words: each has a place, and each key a place for its value besides.
const (
	bytesOfWord = 16
	bytesOfKey  = 64
)

// Bounded returns the container with those of its variables that decide about its pod, and its arguments, as long as both
// together are within a pod's budget. Of one that says more it keeps how much that is, by which it is rejected, and of any
// other container what shows what it runs.
func (n Node) Bounded(c Container) Container {
	c.Groups = slices.Clone(c.Groups[:min(len(c.Groups), mostGroups+1)])
	if !n.Refines(c.Name) {
		c.Args, c.Env = c.ends(), nil
		return c
	}
	c = c.WithVariables(func(name string) bool { return n.readsVariable(c.Name, name) })
	said := c.says()
	if said <= n.Budget.orStandard().Bytes {
		c.Args = slices.Clone(c.Args)
		return c
	}
	env := c.Env
	c = c.WithVariables(func(name string) bool { return len(env[name]) <= longestWord })
	c.Args = c.ends()
	c.Said += said - c.says()
	return c
}

// WithVariables returns the container with those of its variables alone. An environment that is known stays so where none is
// left.
func (c Container) WithVariables(kept func(name string) bool) Container {
	if c.Env == nil {
		return c
	}
	c.Env = only(c.Env, kept)
	return c
}

// says is how many bytes the container's arguments and environment count with those who read them.
func (c Container) says() int {
	bytes := ArgumentsInput("", c).Bytes - c.Said
	for _, value := range c.Env {
		bytes += len(value)
	}
	return bytes
}

// ends returns the words of the command line that show what runs: the first ones and the last.
func (c Container) ends() []string {
	words := c.beginning()
	if len(c.Args) > len(words) {
		last := c.Args[len(c.Args)-1]
		words = append(words, strings.Clone(last[:min(len(last), longestWord)]))
	}
	return words
}

// readsVariable reports whether a mesh reads a variable of a container of that name.
func (n Node) readsVariable(container, name string) bool {
	return n.some(func(mesh Mesh) bool { return mesh.ReadsVariable(container, name) })
}
