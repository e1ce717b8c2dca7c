// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/document"
)

// The environment of the proxy container that shapes the redirection, and what says that there is none.
const (
	envDisabled           = "DISABLE_ENVOY"
	envDNSCapture         = "ISTIO_META_DNS_CAPTURE"
	envDualStack          = "ISTIO_DUAL_STACK"
	envInvalidDrop        = "INVALID_DROP"
	envOwnerGroups        = "ISTIO_OUTBOUND_OWNER_GROUPS"
	envOwnerGroupsExclude = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"
	envLoopback           = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
)

// refine applies what the injector's user override, the validation container and the proxy container say, each taking
// precedence over the one before. A runtime tells containers one by one, so either may not be known yet: its values are
// then those of the node's configuration. A validation container that the injector did not add is ignored.
func (in reading) refine(injected []string) error {
	pod := in.Pod
	if err := in.applyOverrides(pod.Annotations[keyOverrides]); err != nil {
		return err
	}
	validation := pod.Container(containerValidation)
	if validation != nil && len(injected) > 0 && !slices.Contains(injected, containerValidation) {
		validation = nil
	}
	if validation != nil {
		// It runs as the user that the proxy is to run as, so that the rules let it pass.
		if err := in.applyUser(*validation); err != nil {
			return err
		}
		if err := in.applyArguments(validation.Args, validation.By(rules.ValueArgs)); err != nil {
			return err
		}
	}
	proxy := pod.Container(containerProxy)
	if proxy == nil || proxy.Env == nil {
		if err := in.applyProxyConfig(pod.Annotations[keyProxyConfig]); err != nil {
			return err
		}
		if validation != nil {
			in.switchOn(validation.Env, "container ", containerValidation, " environment"+validation.By(rules.ValueEnv)+" ")
		}
	}
	if proxy != nil {
		if err := in.applyUser(*proxy); err != nil {
			return err
		}
		if proxy.Env != nil { // nil is not known, which is not empty
			if err := in.applyEnvironment(*proxy); err != nil {
				return err
			}
		}
	}
	return in.check()
}

// with adds to an intent what containers may say without loosening it: who the proxy is, which loopback range is left
// alone, and what is captured besides. Not the proxy's ports, which only the mesh may set: at another port may be the app.
func (in *Intent) with(refined *Intent) {
	in.UID, in.GID, in.Loopback = refined.UID, refined.GID, refined.Loopback
	in.DNSCapture = in.DNSCapture || refined.DNSCapture
	in.DualStack = in.DualStack || refined.DualStack
	in.InvalidDrop = in.InvalidDrop || refined.InvalidDrop
}

// applyProxyConfig reads what the injector was asked to put into the proxy's environment, as long as that is not known.
func (in reading) applyProxyConfig(value string) error {
	if value == "" {
		return nil
	}
	metadata, problem := document.Texts(value, "proxyMetadata")
	if problem != "" {
		return &rules.InputError{Place: annotation + " " + keyProxyConfig, Value: value, Problem: problem}
	}
	in.switchOn(metadata, annotation, " ", keyProxyConfig, " proxyMetadata.")
	return nil
}

// switchOn reads what the proxy's environment is going to be, from where it is known earlier: the injector writes the same
// into that of the validation container, which is created before the app where the proxy is not. Only what has more
// captured counts: what takes away is the environment's to say, and is judged there.
func (in reading) switchOn(environment map[string]string, place ...string) {
	for _, t := range in.toggles() {
		if on, err := strconv.ParseBool(environment[t.name]); err == nil && on {
			*t.into = true
			in.Gave(t.into, append(slices.Clip(place), t.name)...)
		}
	}
}

// toggle is a variable of the environment that switches something on.
type toggle struct {
	name string
	into *bool
}

func (in reading) toggles() [3]toggle {
	return [...]toggle{{envDNSCapture, &in.DNSCapture}, {envDualStack, &in.DualStack}, {envInvalidDrop, &in.InvalidDrop}}
}

// applyUser takes the ids that a container runs as, where they are known.
func (in reading) applyUser(c rules.Container) error {
	for _, id := range []*int64{c.UID, c.GID} {
		if id != nil && !validID(*id) {
			return &rules.InputError{Place: "container " + c.Name + " user", Value: strconv.FormatInt(*id, 10),
				Problem: "not a user or group id"}
		}
	}
	in.applyIDs(c, "container ", c.Name)
	return nil
}

// applyIDs takes the ids of a security context. 0 is what TPROXY and low ports need, and then the proxy
// drops to the default user.
func (in reading) applyIDs(c rules.Container, kind, name string) {
	if c.UID != nil && *c.UID > 0 {
		in.UID = uint32(*c.UID)
		in.Gave(&in.UID, kind, name, " user", c.By(rules.ValueUser))
	}
	if c.GID != nil && *c.GID > 0 {
		in.GID = uint32(*c.GID)
		in.Gave(&in.GID, kind, name, " group", c.By(rules.ValueGroup))
	}
}

// applyOverrides reads the part of the pod's own istio-proxy container that the injector kept.
func (in reading) applyOverrides(value string) error {
	if value == "" {
		return nil
	}
	type container struct {
		Name            string `json:"name"`
		SecurityContext struct {
			RunAsUser  *int64 `json:"runAsUser"`
			RunAsGroup *int64 `json:"runAsGroup"`
		} `json:"securityContext"`
	}
	var overrides struct {
		Containers     []container `json:"containers"`
		InitContainers []container `json:"initContainers"`
	}
	if err := json.Unmarshal([]byte(value), &overrides); err != nil {
		return badJSON("annotation "+keyOverrides, value, err)
	}
	for _, c := range append(overrides.InitContainers, overrides.Containers...) {
		if c.Name != containerProxy {
			continue
		}
		for _, id := range []*int64{c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup} {
			if id != nil && !validID(*id) {
				return &rules.InputError{Place: "annotation " + keyOverrides, Value: value,
					Problem: fmt.Sprintf("%d is not a user or group id", *id)}
			}
		}
		in.applyIDs(rules.Container{UID: c.SecurityContext.RunAsUser, GID: c.SecurityContext.RunAsGroup}, "annotation ", keyOverrides)
	}
	return nil
}

func validID(id int64) bool { return id >= 0 && id <= int64(largest(32)) }

// applyArguments reads the command line that istio-validation shares with istio-iptables: ports and ids.
// The lists on it are in the annotations too.
func (in reading) applyArguments(args []string, by string) error {
	args, ok := flags(args)
	if !ok {
		in.notes = append(in.notes, fmt.Sprintf("container %s does not run %s: its arguments are not read",
			containerValidation, iptables))
		return nil
	}
	number(in, args, by, "--envoy-port", "-p", &in.OutboundPort, 16)
	number(in, args, by, "--inbound-capture-port", "-z", &in.InboundPort, 16)
	number(in, args, by, "--inbound-tunnel-port", "-e", &in.TunnelPort, 16)
	number(in, args, by, "--proxy-uid", "-u", &in.UID, 32)
	number(in, args, by, "--proxy-gid", "-g", &in.GID, 32)
	return in.Err()
}

// number reads a port or an id of the arguments.
func number[T uint16 | uint32](in reading, args []string, by, long, short string, into *T, bits int) {
	value, ok := argument(args, long, short)
	if !ok {
		return
	}
	if bits == 32 {
		value = in.oneOf(short, value, uint64(*into))
	}
	n, err := strconv.ParseUint(value, 10, bits)
	if err != nil || n == 0 || n > largest(bits) {
		in.FailAt("container "+containerValidation+" argument "+short, value, fmt.Sprintf("not a number from 1 to %d", largest(bits)))
		return
	}
	*into = T(n)
	in.Gave(into, "container ", containerValidation, " argument ", short, " (", long, ")", by)
}

// oneOf returns the id that counts of a list, for each of which istio-iptables would write rules: the one that the
// container runs as, as the proxy is to do, or the first. Any other would be left to whoever runs as it.
func (in reading) oneOf(short, list string, runs uint64) string {
	ids := strings.FieldsFunc(list, func(c rune) bool { return c == ',' })
	for i := range ids {
		ids[i] = strings.TrimSpace(ids[i])
	}
	if ids = rules.Unique(ids); len(ids) < 2 {
		return strings.Join(ids, "")
	}
	in.notes = append(in.notes, fmt.Sprintf("container %s argument %s: of %d ids only the one that the proxy runs as is let pass",
		containerValidation, short, len(ids)))
	if as := strconv.FormatUint(runs, 10); slices.Contains(ids, as) {
		return as
	}
	return ids[0]
}

// flags returns what follows the sub-command, which a manifest has first or leaves out; a runtime has the agent's path
// before it. Arguments of any other program are unknown.
func flags(args []string) ([]string, bool) {
	switch {
	case len(args) == 0 || strings.HasPrefix(args[0], "-"):
		return args, true
	case path.Base(args[0]) == iptables:
		return args[1:], true
	case isAgent(args[0]) && (len(args) == 1 || args[1] == iptables):
		return args[min(2, len(args)):], true
	}
	return nil, false
}

// argument finds the last value of a flag, in any of the spellings that pflag reads.
func argument(args []string, long, short string) (value string, found bool) {
	for i, arg := range args {
		switch {
		case (arg == long || arg == short) && i+1 < len(args):
			value, found = args[i+1], true
		case strings.HasPrefix(arg, long+"="):
			value, found = arg[len(long)+1:], true
		case strings.HasPrefix(arg, short) && len(arg) > len(short) && !strings.HasPrefix(arg, "--"):
			value, found = strings.TrimPrefix(arg[len(short):], "="), true
		}
	}
	return value, found
}

// applyEnvironment reads the proxy's environment. An absent switch is off. One that Istio's agent cannot parse is off too,
// as for the agent, and gets a note.
func (in reading) applyEnvironment(proxy rules.Container) error {
	env, by := proxy.Env, proxy.By(rules.ValueEnv)
	for _, t := range in.toggles() {
		value, ok := env[t.name]
		in.gaveEnvironment(t.into, t.name, by, ok)
		on, err := strconv.ParseBool(value)
		if *t.into = on; ok && err != nil {
			in.notes = append(in.notes, fmt.Sprintf("container %s: %s=%q is no boolean and counts as false",
				containerProxy, t.name, rules.Excerpt(value)))
		}
	}
	if value, ok := env[envOwnerGroups]; ok {
		groups, err := in.ownerGroups(envOwnerGroups, value)
		if err != nil {
			return err
		}
		in.OwnerGroups = groups
		in.gaveEnvironment(&in.OwnerGroups, envOwnerGroups, by, true)
	}
	if value, ok := env[envOwnerGroupsExclude]; ok {
		groups, err := in.ownerGroups(envOwnerGroupsExclude, value)
		if err != nil {
			return err
		}
		in.OwnerGroupsExclude = groups
		in.gaveEnvironment(&in.OwnerGroupsExclude, envOwnerGroupsExclude, by, true)
	}
	if value, ok := env[envLoopback]; ok {
		prefix, err := ParseLoopback(value)
		if err != nil {
			return &rules.InputError{Place: "container " + containerProxy + " environment " + envLoopback, Value: value,
				Problem: err.Error()}
		}
		in.Loopback = prefix
		in.gaveEnvironment(&in.Loopback, envLoopback, by, true)
	}
	return nil
}

// gaveEnvironment notes that the proxy's environment gave a field its value, by a variable or by its absence.
func (in reading) gaveEnvironment(into any, name, by string, present bool) {
	if present {
		in.Gave(into, "container ", containerProxy, " environment ", name, by)
	} else {
		in.Gave(into, "container ", containerProxy, " environment, which has no ", name, by)
	}
}

// check refuses settings that are each valid but cannot work together.
func (in reading) check() error {
	if in.OutboundPort == in.InboundPort {
		return &rules.InputError{Place: "proxy ports", Value: strconv.Itoa(int(in.InboundPort)),
			Problem: "outbound and inbound listener cannot share a port"}
	}
	return nil
}
