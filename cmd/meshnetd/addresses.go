// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

// mostAddresses is how many of the node's addresses pods are told: each is a rule.
const mostAddresses = 32

// servicesInterface has the addresses of services, where kube-proxy uses IPVS: nobody sends from them.
const servicesInterface = "kube-ipvs0"

// addresses returns those of the node that a kubelet may probe from, where a lockdown asks for them. What cannot be read is
// not there: then probes of ports that the mesh does not take fail, which is seen.
func addresses(cfg config.Config) []netip.Addr {
	if !slices.ContainsFunc(cfg.Lockdowns, func(l rules.Lockdown) bool { return l.Inbound }) {
		return nil
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, i := range interfaces {
		if i.Name == servicesInterface {
			continue
		}
		prefixes, err := i.Addrs()
		if err != nil {
			continue // it went
		}
		for _, p := range prefixes {
			prefix, err := netip.ParsePrefix(p.String())
			if a := prefix.Addr().Unmap(); err == nil && rules.Global(a) {
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	return all[:min(len(all), mostAddresses)]
}
