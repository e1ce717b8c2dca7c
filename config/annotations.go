// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/kuma"
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
		"static":   staticProfiles(c),
		"policy":   policies(c),
		"lockdown": lockdowns(c),
		"annotations": {must: []string{"annotation"}, add: func() (map[string]setter, func() map[string]string) {
			c.Annotations = append(c.Annotations, rules.AnnotationPolicy{Otherwise: rules.Refuse})
			earlier, p := c.Annotations[:len(c.Annotations)-1], &c.Annotations[len(c.Annotations)-1]
			var allow []string
			return map[string]setter{
				"annotation": text(&p.Annotation, pattern),
				"namespaces": texts(&p.Namespaces, pattern),
				"allow": then(texts(&allow, allowed), func() error {
					p.Allow = rules.Allow(allow...)
					return nil
				}),
				"otherwise": text(&p.Otherwise, oneOf([]rules.Otherwise{rules.Refuse, rules.Ignore, rules.Permit})),
			}, func() map[string]string { return meaningless(*p, earlier) }
		}},
	}
}

// objects are annotations whose value is no list: its items would be pieces of JSON or YAML.
var objects = []string{consul.KeyConfig, kuma.KeyConfig}

// meaningless refuses what allows items of a value that has none, where the policy is asked about it.
func meaningless(p rules.AnnotationPolicy, earlier []rules.AnnotationPolicy) map[string]string {
	if len(p.Allow) == 0 || p.Otherwise == rules.Permit {
		return nil
	}
	for _, key := range objects {
		covers := func(p rules.AnnotationPolicy) bool { ok, _ := path.Match(p.Annotation, key); return ok }
		first := func(p rules.AnnotationPolicy) bool { return covers(p) && len(p.Namespaces) == 0 }
		if covers(p) && !slices.ContainsFunc(earlier, first) {
			return map[string]string{"allow": "annotation " + key + " is no list, and so none of its items can be allowed: [[policy]] judges what it captures; " +
				"leave allow out to refuse every pod that has it, or let an earlier policy allow it"}
		}
	}
	return nil
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
