// SPDX-License-Identifier: Apache-2.0

package static

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if profile, ok := d.Intent.(Profile); ok {
		d.Account.Settings = profile.settings()
	}
	return d
}

// settings are what every pod of the profile gets, without what selects it.
func (p Profile) settings() []rules.Setting {
	all := account.Settings(p, account.Sources{Empty: map[string]string{"inboundPort": "none", "outboundPort": "none", "dnsPort": "none",
		"proxyGID": "none", "inboundPorts": "all"}})
	all = slices.DeleteFunc(all, func(s rules.Setting) bool { return s.Name == "-" })
	for i := range all {
		all[i].Source = "static profile " + p.Name
	}
	return all
}

func (p Profile) becauseIPv6() string { return "proxy_ipv6 of static profile " + p.Name + " is false" }
