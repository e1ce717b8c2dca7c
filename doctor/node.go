// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

func judgeHostNamespace(f Facts) []Finding {
	if err := f.Node.HostErr; err != nil {
		return []Finding{broken("host-netns", f.Config.File, "The host's network namespace cannot be told, and meshnetd does not start: %v.", err).
			do("Share the host's PID namespace (hostPID: true), or mount the host's /proc and write in %s:\nhost_netns = \"/host/proc/1/ns/net\"", f.Config.File)}
	}
	return []Finding{ok("host-netns", "/proc/1/ns/net", "The host's network namespace is known, and so never touched.")}
}

// judgePropagation is about the host; judgeView is about what the daemon has of it.
func judgePropagation(f Facts) []Finding {
	m := f.Node.NetNSMount
	switch {
	case m.Propagation == "" && f.Contained:
		return []Finding{unseen("netns-propagation", "/proc/1/mountinfo", "How mounts below "+m.Dir+" of the node propagate")}
	case m.Propagation == "":
		return []Finding{warning("netns-propagation", "/proc/1/mountinfo", "Could not see how mounts below %s propagate.", m.Dir).do("Run doctor as root.")}
	case m.Propagation == "shared":
		return []Finding{ok("netns-propagation", "/proc/1/mountinfo", "Namespaces that are mounted below %s reach containers and sandboxed units.", m.Dir)}
	}
	return []Finding{info("netns-propagation", "/proc/1/mountinfo", "%s, on which %s lies, is %s: namespaces mounted there reach neither a container nor a unit "+
		"with mounts of its own. A meshnetd in the host's mount namespace sees them.", m.Point, m.Dir, m.Propagation).
		do("For a DaemonSet or a sandboxed unit: mount --make-rshared %s", m.Point)}
}

// MeshPlugins returns the types of CNI plugins that would do meshnetd's work, each with its mesh.
func MeshPlugins() map[string]string {
	return map[string]string{"istio-cni": "Istio", "linkerd-cni": "Linkerd", "kuma-cni": "Kuma", "consul-cni": "Consul"}
}

func judgeCNI(f Facts) []Finding {
	n := f.Node
	if n.CNIErr != nil {
		return []Finding{warning("cni-redirect", f.Settings.CNIDir, "The CNI configuration could not be looked at: %v.", n.CNIErr).do("Run doctor as root.")}
	}
	if f.Contained && len(n.Networks) == 0 {
		return []Finding{unseen("cni-redirect", f.Settings.CNIDir, "Which CNI plugins are chained")}
	}
	var found []Finding
	for i, network := range n.Networks {
		if network.Err != nil {
			found = append(found, warning("cni-redirect", network.File, "%v.", network.Err).do("Fix or remove the file: the runtime takes the first one by name."))
			continue
		}
		for at, plugin := range network.Plugins {
			mesh := MeshPlugins()[plugin]
			if mesh == "" {
				continue
			}
			used := ""
			if i > 0 {
				used = " The runtime takes the first file by name only, which this is not."
			}
			remedy := "Uninstall it where pods are meshnetd's, so that its entry is out of " + filepath.Base(network.File) +
				", and keep its injector as it is; or leave its mesh out of mesh.enabled."
			if plugin == "istio-cni" {
				remedy = fmt.Sprintf("Uninstall it where pods are meshnetd's: for Istio, remove the chart istio-cni or its node agent, which takes the entry out of %s. "+
					"Keep pilot.cni.enabled=true.", filepath.Base(network.File))
			}
			found = append(found, warning("cni-redirect", network.File, "%s is in the chain of CNI plugins (number %d of %d): %s's own, "+
				"which writes the rules that meshnetd writes.%s", plugin, at+1, len(network.Plugins), mesh, used).do("%s", remedy))
		}
	}
	if len(found) == 0 {
		found = append(found, ok("cni-redirect", f.Settings.CNIDir, "No CNI plugin of a mesh is chained in %s.", f.Settings.CNIDir))
	}
	return found
}

// judgeMultus looks for what Istio's injector has pods ask for on OpenShift. Whether the network is there only the API server
// knows.
func judgeMultus(f Facts) []Finding {
	for _, network := range f.Node.Networks {
		if slices.ContainsFunc(network.Plugins, func(plugin string) bool { return plugin == "multus" || plugin == "multus-shim" }) {
			return []Finding{info("cni-multus", network.File, "Multus is in use. Where Istio's injector has pilot.cni.provider: multus, as its profile for OpenShift "+
				"has, each pod asks for the network default/istio-cni, which the chart istio-cni makes, and fails without it.").
				do("Set pilot.cni.provider: default (packaging/istio/values.yaml), or keep an empty network:\n" +
					"kubectl get net-attach-def -n default istio-cni")}
		}
	}
	return nil
}

func judgeCNIPrograms(f Facts) []Finding {
	if len(f.Node.CNIPrograms) == 0 {
		return nil
	}
	return []Finding{info("cni-programs", f.Node.CNIPrograms[0], "Programs of other meshes are installed, which do nothing unless they are chained: %s.",
		strings.Join(f.Node.CNIPrograms, ", ")).do("Remove them where nothing uses them any more.")}
}

func judgeDaemons(f Facts) []Finding {
	switch {
	case errors.Is(f.Node.LocksErr, fs.ErrPermission):
		return []Finding{warning("other-daemon", f.Node.LockDir, "Could not tell whether a second meshnetd runs: %v.", f.Node.LocksErr).do("Run doctor as root.")}
	case f.Node.LocksErr != nil:
		return []Finding{broken("locks", f.Node.LockDir, "meshnetd does not start: %v.", f.Node.LocksErr).
			do("Remove what is there, and meshnetd creates it again. Or name another directory with lock_dir.")}
	case !f.Node.Daemons:
		return []Finding{ok("other-daemon", f.Node.LockDir, "No second meshnetd runs.")}
	}
	return []Finding{warning("other-daemon", f.Node.LockDir, "More than one meshnetd runs, as in the middle of a rolling update.").
		do("Where none is under way, end one: systemctl stop meshnetd, or take the node out of the DaemonSet.")}
}
