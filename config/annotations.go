// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// list is an array of tables.
type list struct {
	// add appends an element and returns its keys, by their names within it, and what finds problems between them when
	// all are read, by key; "" is the whole element.
	add  func() (keys map[string]setter, check func() map[string]string)
	at   func(place string) // is told where the last element stands, as "FILE:LINE"; nil asks for nothing
	must []string           // the keys that every element has to have
}

// lists has every array of tables, as keys has every key.
func lists(c *Config) map[string]list {
	return map[string]list{
		"static": staticProfiles(c),
		"policy": policies(c),
		"annotations": {must: []string{"annotation"}, add: func() (map[string]setter, func() map[string]string) {
			c.Annotations = append(c.Annotations, rules.AnnotationPolicy{Otherwise: rules.Refuse})
			p := &c.Annotations[len(c.Annotations)-1]
			return map[string]setter{
				"annotation": text(&p.Annotation, pattern),
				"namespaces": texts(&p.Namespaces, pattern),
				"allow":      texts(&p.Allow, allowed),
				"otherwise":  text(&p.Otherwise, oneOf([]rules.Otherwise{rules.Refuse, rules.Ignore, rules.Permit})),
			}, func() map[string]string { return nil }
		}},
	}
}

func pattern(s string) error {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return fmt.Errorf(`%q is no pattern: not empty, * and ? stand for anything but a slash, [a-z] for one of a set, \ takes away their meaning`, s)
	}
	return nil
}

var looksLikeRange = regexp.MustCompile(`^[0-9]*-[0-9]*$`)

// allowed refuses what could never allow anything, or not what it looks like.
func allowed(s string) error {
	if strings.TrimSpace(s) != s || strings.Contains(s, ",") {
		return fmt.Errorf("%q is no single item: values are split at commas and trimmed", s)
	}
	if _, ok := rules.ParsePortRange(s); !ok && looksLikeRange.MatchString(s) {
		return fmt.Errorf("%q is no range of ports: 0 to 65535, the first not above the last", s)
	}
	if addr, _, masked := strings.Cut(s, "/"); masked && isAddr(addr) {
		if _, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8", s)
		}
	}
	return nil
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
