// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Proxy is whose traffic a pod's rules let pass, and which of the pod's containers may send it.
type Proxy struct {
	UID, GID   uint32
	Containers []Sidecar
	Images     []string // of which a pattern of path.Match names the image of each of them; none is any image
}

// Sidecar is a container that the injector adds and that runs as the proxy. The pod's author can give any container that
// name, so what it runs is looked at too.
type Sidecar struct {
	Name    string
	Command []string // base names of its program and of the words that follow it in every version; none is whatever it runs
}

// mostGroups is how many additional groups of a container are looked at, and remembered.
const mostGroups = 128

// Impostor returns why a container goes around the mesh as the proxy's user or group although it is not the
// proxy, or "". A user that is not known proves nothing, nor do arguments or an image.
//
// A group that is only one of a container's additional ones is not the group of what it sends, until it runs a file
// with the setgid bit. No runtime tells by NRI whether a container may gain privileges by that; so it counts.
func (d Decision) Impostor(c Container) string {
	if d.Action != Enrol {
		return ""
	}
	var as, fields []string
	if c.UID != nil && *c.UID == int64(d.Proxy.UID) {
		as, fields = append(as, fmt.Sprintf("user %d", *c.UID)), append(fields, "runAsUser")
	}
	if c.GID != nil && *c.GID == int64(d.Proxy.GID) {
		as, fields = append(as, fmt.Sprintf("group %d", *c.GID)), append(fields, "runAsGroup")
	}
	grouped := d.Proxy.GID != NoID && (slices.Contains(c.Groups, d.Proxy.GID) || len(c.Groups) > mostGroups)
	if len(as) == 0 && !grouped {
		return ""
	}
	i := d.Proxy.index(c.Name)
	const way = ", or ask whoever runs the node to exempt the namespace (proxy_identity_exempt in the configuration)"
	switch {
	case i >= 0 && !d.Proxy.Containers[i].runs(c):
		return fmt.Sprintf("container %s has the proxy's name and identity, and runs %q instead of %q: what it sends would go around the mesh. "+
			"Leave the container as the injector makes it%s", c.Name, strings.Join(c.beginning(), " "), strings.Join(d.Proxy.Containers[i].Command, " "), way)
	case i >= 0 && !d.Proxy.trusts(c.Image):
		return fmt.Sprintf("container %s has the proxy's name and identity, and its image %q is none of proxy_images in the node's configuration: "+
			"what it sends would go around the mesh. Leave the container as the injector makes it%s", c.Name, shortened(c.Image, longestValue), way)
	case i >= 0:
		return ""
	case len(as) > 0:
		return fmt.Sprintf("container %s runs as %s, as the proxy does: what it sends would go around the mesh. Give it another %s%s",
			c.Name, strings.Join(as, " and "), strings.Join(fields, " and "), way)
	case len(c.Groups) > mostGroups:
		return fmt.Sprintf("container %s has %d additional groups, and %d are looked at for the proxy's. Give the pod fewer "+
			"supplementalGroups%s", c.Name, len(c.Groups), mostGroups, way)
	}
	return fmt.Sprintf("container %s has the proxy's group %d among its additional groups, as a pod's fsGroup or supplementalGroups make it, "+
		"or its image: what a setgid file of that group sends would go around the mesh. Take the group out of them%s", c.Name, d.Proxy.GID, way)
}

// index returns the place of a container among the proxy's, or -1.
func (p Proxy) index(name string) int {
	return slices.IndexFunc(p.Containers, func(s Sidecar) bool { return s.Name == name })
}

// is reports whether a container is the proxy, and not another one by its name.
func (p Proxy) is(c Container) bool {
	i := p.index(c.Name)
	return i >= 0 && p.Containers[i].runs(c) && p.trusts(c.Image)
}

// PacketSockets returns the names of those of a manifest's containers, besides the proxy's, that may have NET_RAW, where
// they do not drop it: packets of such sockets meet no rule.
func (d Decision) PacketSockets(pod Pod) (names []string) {
	for _, c := range pod.Containers {
		if pod.Complete && !c.Powers.DropsNetRaw && !d.Proxy.is(c) {
			names = append(names, c.Name)
		}
	}
	return names
}

// runs reports whether a container's command line is the sidecar's, or not known.
func (s Sidecar) runs(c Container) bool {
	if len(c.Args) == 0 || len(s.Command) == 0 || begins(c.Args, s.Command) {
		return true
	}
	return c.ArgsOnly && (strings.HasPrefix(c.Args[0], "-") || len(s.Command) > 1 && begins(c.Args, s.Command[1:]))
}

func begins(args, command []string) bool {
	return len(args) >= len(command) && slices.EqualFunc(args[:len(command)], command, func(arg, word string) bool { return path.Base(arg) == word })
}

// trusts reports whether a proxy may have that image; "" is one that is not known.
func (p Proxy) trusts(image string) bool {
	return image == "" || len(p.Images) == 0 || MatchesAny(p.Images, image)
}

// How much of a command line tells what runs.
const (
	longestBeginning = 3
	longestWord      = 64
)

// beginning returns the words of the command line that tell what runs.
func (c Container) beginning() []string {
	words := slices.Clone(c.Args[:min(len(c.Args), longestBeginning)])
	for i, word := range words {
		words[i] = strings.Clone(word[:min(len(word), longestWord)])
	}
	return words
}

// Identity returns what Impostor looks at, in little memory.
func (c Container) Identity() Container {
	return Container{Name: c.Name, Args: c.beginning(), ArgsOnly: c.ArgsOnly, Image: c.Image, UID: c.UID, GID: c.GID, Groups: slices.Clone(c.Groups[:min(len(c.Groups), mostGroups+1)])}
}

// IdentifiedBy returns the proxy with the ids that a plan's rules let pass: the first group that they name, since excluded
// groups come after the proxy's. Excluded users may come before the proxy's, so its user id is kept where the plan names
// it anywhere, and is the first one otherwise.
func (p Proxy) IdentifiedBy(plan Plan) Proxy {
	uid := slices.ContainsFunc(plan.all(), func(r Rule) bool { return slices.Contains(r.owners(FieldUID), p.UID) })
	gid := false
	for _, r := range plan.all() {
		if ids := r.owners(FieldUID); !uid && len(ids) > 0 {
			p.UID, uid = ids[0], true
		}
		if ids := r.owners(FieldGID); !gid && len(ids) > 0 {
			p.GID, gid = ids[0], true
		}
	}
	return p
}

// owners returns the single users or groups that a rule names, negated or not.
func (r Rule) owners(of Field) (all []uint32) {
	for _, m := range r.On(of) {
		if ids := m.Value.(IDs); ids.First == ids.Last {
			all = append(all, ids.First)
		}
	}
	return all
}

// all returns the rules of all chains, IPv4 first.
func (p Plan) all() []Rule {
	var all []Rule
	for _, rs := range p.Rulesets() {
		for r := range rs.All() {
			all = append(all, r.Rule)
		}
	}
	return all
}
