// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Intent is what the mesh wants for one pod, every default filled in. It is read from one annotation
// alone, in which the injector already merged its own, the namespace's and the pod's settings.
type Intent struct {
	UID          uint32 `json:"proxyUID"`
	InboundPort  uint16 `json:"inboundPort"`
	OutboundPort uint16 `json:"outboundPort"`

	InboundExclude  []rules.PortRange `json:"inboundPortsExcluded"`
	OutboundExclude []rules.PortRange `json:"outboundPortsExcluded"`
	RangesExclude   []netip.Prefix    `json:"outboundRangesExcluded"`
	UIDsExclude     []uint32          `json:"usersExcluded"`

	// DNSAddress is asked in place of any name server where there is no DNSPort; with one, lookups that are sent to
	// it go to that port. Without either, lookups are left alone.
	DNSAddress netip.Addr `json:"dnsAddress"`
	DNSPort    uint16     `json:"dnsPort" none:"none"`

	DualStack   bool              `json:"dualStack"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6" key:"consul.ipv6"`
}

const outboundPort = 15001 // the default

func (in *Intent) read(r *mesh.Reader, d Defaults) error {
	*in = Intent{OutboundPort: outboundPort, WithoutIPv6: d.WithoutIPv6}
	if r.Pod.Annotations[keyDualStack] != "" {
		mesh.Read(r, keyDualStack, &in.DualStack, func(text string) (dual bool, problem string) {
			if text != "true" && text != "false" {
				problem = `want "true" or "false"`
			}
			return text == "true", problem
		})
	}
	return r.Configured(KeyConfig, "is empty: the injector writes it where it is in CNI mode", in.configured)
}

// The keys of the configuration, with the value of a missing one as Consul's library has it:
//
//	ConsulDNSIP                 ""     an address
//	ConsulDNSPort               0      none
//	ProxyUserID                 -      a number; needed
//	ProxyInboundPort            -      needed
//	ProxyOutboundPort           0      15001
//	ExcludeInboundPorts         none   texts, "8080" or "8080:8090", where a missing end is 0 or 65535
//	ExcludeOutboundPorts        none   the same
//	ExcludeOutboundCIDRs        none   texts, "10.0.0.0/8" or "10.0.0.1"; those of the other family are left out
//	ExcludeUIDs                 none   texts, "1000"
//	NetNS, IptablesProvider, NftablesProvider: not looked at. A path of a namespace is never taken from a pod.
//
// Blanks around a text are left out, as Consul's library and iptables do. Any other key is refused unless it is null: it
// may change what the others mean.
func (in *Intent) configured(r *mesh.Reader, text string) (problem string) {
	var ip, uid string
	problem = eachKey(text, func(key string, value json.RawMessage) error {
		gives := func(field any, err error) error {
			if said := string(value); said != "null" && said != "0" && said != `""` { // which give nothing
				r.Gave(field, key, " in annotation ", KeyConfig)
			}
			return err
		}
		number := func(port *uint16) error { return gives(port, into(value, port, "a port number from 0 to 65535")) }
		switch key {
		case "ConsulDNSIP":
			return gives(&in.DNSAddress, into(value, &ip, "a text"))
		case "ProxyUserID":
			return gives(&in.UID, into(value, &uid, "a text"))
		case "ConsulDNSPort":
			return number(&in.DNSPort)
		case "ProxyInboundPort":
			return number(&in.InboundPort)
		case "ProxyOutboundPort":
			return number(&in.OutboundPort)
		case "ExcludeInboundPorts":
			return gives(&in.InboundExclude, items(value, &in.InboundExclude, parsePorts))
		case "ExcludeOutboundPorts":
			return gives(&in.OutboundExclude, items(value, &in.OutboundExclude, parsePorts))
		case "ExcludeOutboundCIDRs":
			return gives(&in.RangesExclude, items(value, &in.RangesExclude, parseRange))
		case "ExcludeUIDs":
			return gives(&in.UIDsExclude, items(value, &in.UIDsExclude, parseUser))
		case "NetNS", "IptablesProvider", "NftablesProvider":
			return nil
		}
		if string(value) != "null" {
			return errors.New("it is not known, and may change what the others mean")
		}
		return nil
	})
	if problem != "" {
		return problem
	}
	if in.UID, problem = rules.ParseID(strings.TrimSpace(uid)); problem != "" {
		return fmt.Sprintf("ProxyUserID: %q is %s", uid, problem)
	}
	if ip = strings.TrimSpace(ip); ip != "" {
		addr, err := netip.ParseAddr(ip)
		if err != nil || addr.Zone() != "" || addr.Is4In6() || addr.IsUnspecified() {
			return fmt.Sprintf("ConsulDNSIP: %q is not an address", ip)
		}
		in.DNSAddress = addr
	}
	return in.check()
}

// eachKey calls read with each key of an object. A key that is there twice is refused.
func eachKey(text string, read func(string, json.RawMessage) error) (problem string) {
	d := json.NewDecoder(strings.NewReader(text))
	fail := func(err error) string { return fmt.Sprintf("not JSON at byte %d: %v", d.InputOffset(), err) }
	if token, err := d.Token(); err != nil {
		return fail(err)
	} else if token != json.Delim('{') {
		return "not a JSON object"
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return fail(err)
		}
		key := token.(string) // of an object, the decoder allows nothing else here
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fail(err)
		}
		if seen[key] {
			return fmt.Sprintf("%s is there twice", key)
		}
		seen[key] = true
		if err := read(key, value); err != nil {
			return fmt.Sprintf("%.40s: %.40s: %v", key, value, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return fail(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return "something follows the JSON object"
	}
	return ""
}

func into(value json.RawMessage, target any, want string) error {
	if json.Unmarshal(value, target) != nil {
		return errors.New("want " + want)
	}
	return nil
}

// items reads a list of texts; null is an empty list.
func items[T any](value json.RawMessage, all *[]T, parse func(string) (T, string)) error {
	if bytes.Equal(value, []byte("null")) {
		return nil
	}
	var texts []*string
	if err := into(value, &texts, "a list of texts"); err != nil {
		return err
	}
	for i, text := range texts {
		if text == nil {
			return fmt.Errorf("item %d is null", i+1)
		}
		item, problem := parse(strings.TrimSpace(*text))
		if problem != "" {
			return fmt.Errorf("item %d, %q, is %s", i+1, *text, problem)
		}
		*all = append(*all, item)
	}
	return nil
}

// parsePorts reads a port, or a range with a colon, or with a dash as later versions of Consul's library do.
func parsePorts(text string) (rules.PortRange, string) {
	if first, last, ranged := strings.Cut(text, ":"); ranged {
		text = cmp.Or(first, "0") + "-" + cmp.Or(last, "65535")
	}
	r, ok := rules.ParsePortRange(text)
	if !ok {
		return r, "not a port or a range such as 8080:8090 (0 to 65535, no names)"
	}
	return r, ""
}

// parseRange reads a CIDR or an address.
func parseRange(text string) (netip.Prefix, string) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return rules.Host(addr), ""
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, "not an address or a CIDR such as 10.0.0.0/8"
	}
	return prefix, ""
}

// parseUser reads a user who may be root.
func parseUser(text string) (uint32, string) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == rules.NoID {
		return 0, "not the number of a user"
	}
	return uint32(n), ""
}

// check refuses settings that are each valid but cannot work together.
func (in *Intent) check() (problem string) {
	if in.OutboundPort == 0 {
		in.OutboundPort = outboundPort
	}
	family := map[bool]string{false: "IPv4", true: "IPv6"}
	switch {
	case in.InboundPort == 0:
		return "ProxyInboundPort is missing or 0"
	case in.InboundPort == in.OutboundPort:
		return "ProxyInboundPort and ProxyOutboundPort are the same: the listeners cannot share a port"
	case in.DNSAddress.IsValid() && in.DNSAddress.Is6() != in.DualStack:
		return fmt.Sprintf("ConsulDNSIP %s must be an %s address, since annotation %s is %t", in.DNSAddress, family[in.DualStack], keyDualStack, in.DualStack)
	}
	return ""
}
