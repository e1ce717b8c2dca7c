// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"cmp"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/plugin"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/rules"
)

const (
	// The runtime's validator is in the list of plugins exactly where it is on.
	validatorName, validatorIndex = "default-validator", "00"

	requiredPlugins = "required-plugins.noderesource.dev"

	longestRequired = 4 << 10 // bytes of that annotation that are read
	mostChanges     = 32      // of a container that are told
	longestChange   = 128     // bytes of a name in one
)

// reviewOf keeps of the runtime's last question what it says beside the container. name and index are this plugin's.
func reviewOf(req *api.ValidateContainerAdjustmentRequest, name, index string) *rules.Review {
	r := &rules.Review{Required: requires(req.GetPod(), nameOf(req.GetContainer()), name, index), Changes: changesOf(req)}
	for _, p := range req.GetPlugins() {
		r.Validator = r.Validator || p.GetName() == validatorName && p.GetIndex() == validatorIndex
	}
	return r
}

// requires reports whether the pod's annotation keeps the container back without the plugin. A list that the runtime
// cannot read is none here: it refuses the container.
func requires(pod *api.PodSandbox, container, name, index string) bool {
	value, _ := plugin.GetEffectiveAnnotation(pod, requiredPlugins, container)
	var list []string
	if len(value) > longestRequired || yaml.Unmarshal([]byte(value), &list) != nil {
		return false
	}
	return slices.Contains(list, name) || slices.Contains(list, index+"-"+name)
}

// changedFields are those that are told of, by what NRI calls them.
var changedFields = map[api.Field]string{
	api.Field_Args: rules.ChangedArguments, api.Field_Env: rules.ChangedEnvironment, api.Field_Mounts: rules.ChangedMounts,
	api.Field_OciHooks: rules.ChangedHooks, api.Field_Devices: rules.ChangedDevices, api.Field_CdiDevices: rules.ChangedDevices,
	api.Field_LinuxNetDevices: rules.ChangedNetDevices, api.Field_Sysctl: rules.ChangedSysctls, api.Field_Namespace: rules.ChangedNamespaces,
}

// changesOf returns what plugins changed of the container, in an order that does not change.
func changesOf(req *api.ValidateContainerAdjustmentRequest) []rules.Adjustment {
	owners := req.GetOwners().GetOwners()[req.GetContainer().GetId()]
	var all []rules.Adjustment
	add := func(field int32, by, what string) {
		name := changedFields[api.Field(field)]
		if name == "" || name == rules.ChangedSysctls && !strings.HasPrefix(api.ClearRemovalMarker(what), "net.") {
			return
		}
		all = append(all, rules.Adjustment{Plugin: shortened(api.ClearRemovalMarker(by)), Field: name, What: shortened(api.ClearRemovalMarker(what))})
	}
	for field, by := range owners.GetSimple() {
		add(field, by, "")
	}
	for field, compound := range owners.GetCompound() {
		for what, by := range compound.GetOwners() {
			add(field, by, what)
		}
	}
	slices.SortFunc(all, func(a, b rules.Adjustment) int {
		return cmp.Or(cmp.Compare(number(b.Around()), number(a.Around())), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Plugin, b.Plugin), cmp.Compare(a.What, b.What))
	})
	return all[:min(len(all), mostChanges)]
}

func number(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func shortened(text string) string {
	return strings.Clone(strings.ToValidUTF8(text[:min(len(text), longestChange)], "")) // the rest is not kept
}
