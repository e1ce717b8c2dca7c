// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// sources notes which place gave each value, by the name of a field in the intent's JSON. Several places can give a value,
// so this is noted where they are read. A nil one notes nothing and costs nothing, as with account.Steps.
type sources map[string]string

// gave notes which place gave a field its value; a later one replaces an earlier one.
func (s sources) gave(field string, place ...string) {
	if s != nil {
		s[field] = strings.Join(place, "")
	}
}

// configured is the key of the node's configuration for a field of the intent.
var configured = map[string]string{
	"outboundPort":        "istio.outbound_port",
	"inboundPort":         "istio.inbound_port",
	"tunnelPort":          "istio.tunnel_port",
	"dnsPort":             "istio.dns_port",
	"proxyUID":            "istio.proxy_uid",
	"proxyGID":            "istio.proxy_gid",
	"ownerGroups":         "istio.owner_groups",
	"ownerGroupsExcluded": "istio.owner_groups_exclude",
	"dnsCapture":          "istio.dns_capture",
	"dualStack":           "istio.dual_stack",
	"invalidDrop":         "istio.invalid_drop",
	"ipv6":                "ipv6",
	"loopback":            "istio.loopback_cidr",
}

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	given := sources{}
	d := m.decide(pod, &steps, given)
	d.Account = &rules.Account{Steps: steps.All()}
	if intent, ok := d.Intent.(Intent); ok {
		from := account.Sources{Given: given, Keys: configured}
		if intent.OwnerGroups == nil { // an empty list is nobody
			from.Empty = map[string]string{"ownerGroups": "all"}
		}
		d.Account.Settings = account.Settings(intent, from)
	}
	return d
}
