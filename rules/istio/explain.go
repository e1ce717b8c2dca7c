// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// recorder notes what is looked at and which place gave each value. It goes the way of every decision; the nil
// recorder, that of a decision that nobody asks about, notes nothing and costs nothing: texts come in parts so
// that they are put together only where they are kept.
type recorder struct {
	steps   []string
	sources map[string]string // by the name of a field in the intent's JSON
}

// step notes what was looked at.
func (r *recorder) step(parts ...string) {
	if r != nil {
		r.steps = append(r.steps, strings.Join(parts, ""))
	}
}

// list notes a step that ends in a list.
func (r *recorder) list(what string, items []string) {
	if r != nil {
		r.steps = append(r.steps, what+strings.Join(items, ", "))
	}
}

// gave notes which place gave a field its value; a later one replaces an earlier one.
func (r *recorder) gave(field string, place ...string) {
	if r != nil {
		r.sources[field] = strings.Join(place, "")
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
	r := &recorder{sources: map[string]string{}}
	d := m.decide(pod, r)
	d.Account = &rules.Account{Steps: r.steps}
	if intent, ok := d.Intent.(Intent); ok {
		d.Account.Settings = r.settings(intent)
	}
	return d
}

// settings lists the fields of an intent as its JSON names them.
func (r *recorder) settings(in Intent) []rules.Setting {
	var all []rules.Setting
	v := reflect.ValueOf(in)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("json")
		if !field.IsExported() {
			continue
		}
		all = append(all, rules.Setting{Name: name, Value: spell(name, v.Field(i).Interface()), Source: r.sources[name], Key: configured[name]})
	}
	return all
}

// spell prints the value of a field.
func spell(name string, value any) string {
	switch value := value.(type) {
	case []uint32:
		if value == nil && name == "ownerGroups" {
			return "all"
		}
		return list(value)
	case []uint16:
		return list(value)
	case []netip.Prefix:
		return list(value)
	case []string:
		return list(value)
	}
	return fmt.Sprint(value)
}

func list[T any](values []T) string {
	if len(values) == 0 {
		return "none"
	}
	var words []string
	for _, value := range values {
		words = append(words, fmt.Sprint(value))
	}
	return strings.Join(words, ", ")
}
