// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"slices"
	"strings"
)

const validatorOn = "[plugins.\"io.containerd.nri.v1.nri\".default_validator]\n  enable = true\n  reject_namespace_adjustment = true"

const crioValidatorOn = "[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_reject_namespace_adjustment = true"

// validates reports whether the runtime has a validator at all: findings about a missing one would be noise.
func (f Facts) validates() bool { return f.Runtime.known().Validates }

func judgeValidator(f Facts) []Finding {
	switch {
	case f.Runtime.Name != "" && !f.validates():
		return []Finding{info("validator-enabled", f.Runtime.Socket, "%s has no validators: containers of the mesh start while meshnetd is away.",
			f.Runtime.words()).do("Upgrade the runtime (runtime-version), or live with what catch_up does afterwards.")}
	case f.hidden():
		return []Finding{unseen("validator-enabled", f.Settings.File, "Whether the runtime's validator is on")}
	case f.Runtime.Name == "":
		return nil
	case !f.Settings.Validator.Enabled:
		return []Finding{warning("validator-enabled", f.Settings.File, "The runtime's validator is off: containers of the mesh start while meshnetd "+
			"is away, and the annotation %s means nothing.", requiredAnnotation).do("%s", f.table(validatorOn, crioValidatorOn))}
	}
	return []Finding{ok("validator-enabled", f.Settings.File, "The runtime's validator is on.")}
}

const requiredAnnotation = "required-plugins.noderesource.dev"

func judgeRequired(f Facts) []Finding {
	v := f.Settings.Validator
	if !f.validates() || !v.Enabled {
		return nil
	}
	name, index := f.Config.Values.NRI.Name, f.Config.Values.NRI.Index
	key := "required_plugins in [plugins.\"io.containerd.nri.v1.nri\".default_validator]"
	if !f.Runtime.isContainerd() {
		key = "nri_validator_required_plugins in [crio.nri.default_validator]"
	}
	for _, required := range v.Required {
		number, base, cut := strings.Cut(required, "-")
		switch {
		case required == name || required == index+"-"+name:
		case cut && base == name && len(number) == 2:
			return []Finding{broken("validator-required", f.Settings.File, "The runtime requires the plugin %q, and meshnetd is %q: "+
				"no container of this node can start.", required, index+"-"+name).
				do("Write %q in %s, and restart the runtime.", name, key)}
		}
	}
	here := f.Config.Values.Required
	required := slices.Contains(v.Required, name) || slices.Contains(v.Required, index+"-"+name)
	switch {
	case required && !here:
		return []Finding{info("validator-required", f.Settings.File, "The runtime requires meshnetd for every container of the node, and meshnetd is not told: pods "+
			"without the annotation %s count as not held back (pod_not_held).", requiredAnnotation).do("Set nri.required = true in %s.", f.Config.File)}
	case !required && here:
		return []Finding{warning("validator-required", f.Settings.File, "nri.required says that the runtime requires meshnetd for every container of the node, and it does not: "+
			"pods without the annotation %s are not held back while meshnetd is away, and nothing says so.", requiredAnnotation).
			do("Set nri.required = false in %s, or write %q in %s and restart the runtime.", f.Config.File, name, key)}
	}
	if required {
		return []Finding{ok("validator-required", f.Settings.File, "The runtime requires meshnetd for every container of the node. "+
			"While meshnetd is away, a pod that asks for it as well says: required plugins %q not present; that is one plugin, on two lists.", name+","+name)}
	}
	return []Finding{info("validator-required", f.Settings.File, "The runtime requires meshnetd for no container by itself: pods wait for it that have "+
		"the annotation %s: '[%q]'.", requiredAnnotation, name).
		do("See that Istio's injector writes the annotation and that the admission policy is there (packaging/README.md).\n"+
			"Where meshnetd is a systemd unit, %s = [%q] does without both.", key, name)}
}

func judgeNamespaces(f Facts) []Finding {
	v := f.Settings.Validator
	if !f.validates() || !v.Enabled {
		return nil
	}
	if v.RejectNamespaces {
		return []Finding{ok("validator-namespaces", f.Settings.File, "The runtime lets no plugin move a container to another namespace.")}
	}
	return []Finding{info("validator-namespaces", f.Settings.File, "The runtime lets other plugins move containers to other namespaces; "+
		"meshnetd refuses those of the mesh while it is connected.").do("%s", f.table(validatorOn, crioValidatorOn))}
}

func judgeTolerance(f Facts) []Finding {
	v := f.Settings.Validator
	if !f.validates() || !v.Enabled {
		return nil
	}
	if v.Tolerate == "" {
		return []Finding{ok("validator-tolerance", f.Settings.File, "No annotation undoes what the runtime requires.")}
	}
	return []Finding{info("validator-tolerance", f.Settings.File, "A pod with the annotation %s: \"true\" waits for no plugin.", v.Tolerate).
		do("See that the admission policy forbids it on pods of the mesh (packaging/admission/), or set the key to \"\".")}
}

func judgeCanary(f Facts) []Finding {
	c := f.Canary
	if c == nil {
		return nil
	}
	var found []Finding
	switch {
	case c.Refused != "":
		found = append(found, ok("canary", f.Runtime.Socket, "A container that requires a plugin which nobody has was refused: %s.", c.Refused))
	case c.Created && f.Runtime.Name != "" && !f.validates():
		found = append(found, info("canary", f.Runtime.Socket, "A container that requires a plugin which nobody has was created, "+
			"as is to be expected of a runtime without validators."))
	case c.Created:
		found = append(found, broken("canary", f.Runtime.Socket, "A container that requires a plugin which nobody has was created: "+
			"on this node no container waits for meshnetd, whatever the files say.").
			do("%s\nWhere they say so already, restart the runtime (%s) and try again.", f.table(validatorOn, crioValidatorOn), f.restart()))
	default:
		found = append(found, warning("canary", f.Runtime.Socket, "The canary showed nothing: %v.", c.Err).
			do("Fix what it says. An image that the node has can be named with --canary-image."))
	}
	if len(c.Left) > 0 {
		found = append(found, broken("canary-removed", f.Runtime.Socket, "The canary could not be removed: %s.", strings.Join(c.Left, "; ")).
			do("%s", removal(c.Left)))
	}
	return found
}

func removal(left []string) string {
	lines := []string{"Remove it by hand:"}
	for _, one := range left {
		kind, rest, _ := strings.Cut(one, " ")
		id, _, _ := strings.Cut(rest, ":")
		if kind == "sandbox" {
			lines = append(lines, fmt.Sprintf("crictl stopp %s && crictl rmp %s", id, id))
		} else {
			lines = append(lines, fmt.Sprintf("crictl rm -f %s", id))
		}
	}
	return strings.Join(lines, "\n")
}
