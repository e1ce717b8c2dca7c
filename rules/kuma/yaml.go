// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// value reads what stands at a path, and stores it in into; problem says what is wrong with it. The zero value reads nothing.
type value struct {
	into any
	read func(r *mesh.Reader, path string, n *yaml.Node) (problem string)
}

// gives returns a value of which something else is made.
func (v value) gives(into any) value { return value{into, v.read} }

// keys are those that an object may have.
type keys map[string]value

// object reads the keys of an object. Anchors, aliases, merges and tags are refused: the control plane writes none.
func object(r *mesh.Reader, path string, n *yaml.Node, known keys) (problem string) {
	if n.Kind != yaml.MappingNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return said(path, n, "is not an object")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i], n.Content[i+1]
		at := key.Value
		if path != "" {
			at = path + "." + at
		}
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "":
			return said(path, key, "has a key that is not a text")
		case seen[key.Value]:
			return said(at, key, "is there twice")
		}
		seen[key.Value] = true
		value, ok := known[key.Value]
		switch {
		case v.Kind == yaml.AliasNode || v.Anchor != "" || v.Style&yaml.TaggedStyle != 0:
			return said(at, v, "has an anchor, alias or tag")
		case v.Kind == yaml.ScalarNode && v.Tag == "!!null":
		case !ok:
			return said(at, key, "is not known, and may change what the others mean")
		case value.read != nil:
			if problem := value.read(r, at, v); problem != "" {
				return problem
			}
			if v.Kind != yaml.ScalarNode || v.Value != "" {
				r.Gave(value.into, at, " in annotation ", KeyConfig)
			}
		}
	}
	return ""
}

func said(path string, n *yaml.Node, problem string) string {
	if path == "" {
		path = "the configuration"
	}
	return fmt.Sprintf("%.80s (line %d) %s", path, n.Line, problem)
}

func within(known keys) value {
	return value{nil, func(r *mesh.Reader, path string, n *yaml.Node) string { return object(r, path, n, known) }}
}

var ignored value

func boolean(into *bool) value {
	return value{into, func(_ *mesh.Reader, path string, n *yaml.Node) string {
		on, err := strconv.ParseBool(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || err != nil {
			return said(path, n, "is not true or false")
		}
		*into = on
		return ""
	}}
}

// word reads a text, or a number as it is written.
func word(into *string) value {
	return value{into, func(_ *mesh.Reader, path string, n *yaml.Node) string {
		if !isWord(n) {
			return said(path, n, "is not a text")
		}
		*into = n.Value
		return ""
	}}
}

func isWord(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!int") && n.Anchor == "" && n.Style&yaml.TaggedStyle == 0
}

func port(into *uint16) value {
	return value{into, func(_ *mesh.Reader, path string, n *yaml.Node) (problem string) {
		if !isWord(n) {
			return said(path, n, "is not a port")
		}
		p, problem := rules.ParsePort(n.Value)
		if problem != "" {
			return said(path, n, "is "+problem)
		}
		*into = p
		return ""
	}}
}

func words(into *[]string) value {
	return items(into, func(text string) ([]string, string) { return []string{text}, "" })
}

// oneOrMore is items for what may also be one item without a list.
func oneOrMore[T any](into *[]T, parse func(string) ([]T, string)) value {
	return value{into, func(r *mesh.Reader, path string, n *yaml.Node) string {
		if isWord(n) {
			n = &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line, Content: []*yaml.Node{n}}
		}
		return items(into, parse).read(r, path, n)
	}}
}

// items reads a list, each item of which may stand for several.
func items[T any](into *[]T, parse func(string) ([]T, string)) value {
	return value{into, func(_ *mesh.Reader, path string, n *yaml.Node) string {
		if n.Kind != yaml.SequenceNode {
			return said(path, n, "is not a list")
		}
		for i, item := range n.Content {
			if !isWord(item) {
				return said(path, item, fmt.Sprintf("has item %d, which is neither text nor number", i+1))
			}
			parsed, problem := parse(item.Value)
			if problem != "" {
				return said(path, item, fmt.Sprintf("has item %d, %.80q, which is %s", i+1, item.Value, problem))
			}
			*into = append(*into, parsed...)
		}
		return ""
	}}
}
