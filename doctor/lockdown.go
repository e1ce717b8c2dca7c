// SPDX-License-Identifier: Apache-2.0

package doctor

// judgeLockdowns is about what a lockdown may cut off without anybody having asked for it.
func judgeLockdowns(f Facts) (found []Finding) {
	const check = "lockdown"
	for _, l := range f.Config.Values.Lockdowns {
		if l.NamesNoServer() && !f.Config.Values.Istio.DNSCapture {
			found = append(found, warning(check, l.Place, `udp = "dns" of %s closes all UDP but lookups, and dns_servers names nobody: a pod whose mesh does not capture DNS finds no name.`, l).
				do("Set dns_servers to the cluster's name servers; `meshnetd plan` says whether a pod's mesh captures lookups."))
		}
		if l.NamesNoControlPlane() {
			found = append(found, warning(check, l.Place, "proxy_egress of %s has no port where a mesh's control plane usually is: a proxy that cannot reach its own gets no "+
				"configuration and no certificates.", l).
				do("Add the control plane's address and port, such as istiod's 15012, to proxy_egress or allow."))
		}
	}
	return found
}
