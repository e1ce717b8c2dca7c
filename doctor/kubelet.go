// SPDX-License-Identifier: Apache-2.0

package doctor

// judgeKubelet is about the kubelet's Pods API, as the daemon has it. Nothing depends on it: without it less is known.
func judgeKubelet(f Facts) []Finding {
	k := f.Daemon.Status.Kubelet
	if f.Daemon.Err != nil || k == nil {
		return nil
	}
	const check = "kubelet-pods"
	for _, l := range f.Config.Values.Lockdowns {
		if l.Raw != "" && k.Condition == "absent" {
			return []Finding{warning(check, k.Socket, "There is no kubelet's Pods API, so that raw of %s reports and refuses nothing.", l).
				do("Kubernetes 1.37 and newer have it. In a container it has to be mounted: kubelet.podsAPI in the chart.")}
		}
	}
	switch k.Condition {
	case "complete":
		found := []Finding{ok(check, k.Socket, "The kubelet tells its %d pods; of those that started %d were known, %d were asked for, and %d it did not tell.",
			k.Pods, k.Known, k.Asked, k.Unanswered)}
		if k.Left > 0 {
			found = append(found, warning(check, k.Socket, "%d pods that the kubelet told of are not kept whole: %s.", k.Left, k.LeftWhy).
				do("Of these, what the runtime tells is known, and what is kept. A node with so many pods, or such large ones, is rare: look whether they are meant."))
		}
		return found
	case "absent":
		return []Finding{info(check, k.Socket, "There is no kubelet's Pods API: ports and users of a classic sidecar hold from its own container on, and what "+
			"containers are given is not known.").do("Kubernetes 1.37 and newer have it. In a container it has to be mounted: kubelet.podsAPI in the chart.")}
	case "reading":
		return []Finding{info(check, k.Socket, "The kubelet is telling its pods: %d so far.", k.Pods).do("Ask again in a moment.")}
	}
	return []Finding{warning(check, k.Socket, "The kubelet does not tell its pods: %s.", k.Why).
		do("See whether the kubelet runs, and whether its feature gate PodsAPI is on (1.36: off by default). kubelet.pods_api names the socket.")}
}
