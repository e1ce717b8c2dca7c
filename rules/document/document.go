// SPDX-License-Identifier: Apache-2.0

// Package document reads YAML that stands in annotations.
package document

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// directive is a line such as %TAG; YAML has more line breaks than one.
var directive = regexp.MustCompile("(^|[\n\r\u0085\u2028\u2029\ufeff])%")

// Root returns what a text is that holds one document. Reading takes little time whatever a pod's author writes there:
// YAML's directives (%TAG) cost the square of their number, and the runtime waits.
func Root(text string) (root *yaml.Node, problem string) {
	if directive.MatchString(text) {
		return nil, "has a line that begins with %, which no setting needs"
	}
	var all yaml.Node
	d := yaml.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&all); err != nil {
		return nil, "not YAML: " + err.Error()
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, "something follows the YAML document"
	}
	if all.Kind != yaml.DocumentNode || len(all.Content) != 1 {
		return nil, "not one YAML document"
	}
	return all.Content[0], ""
}

// Texts returns the texts and numbers of an object that is the value of a key of the whole; none where there is no such
// key. Aliases are not followed.
func Texts(text, key string) (all map[string]string, problem string) {
	root, problem := Root(text)
	if problem != "" {
		return nil, problem
	}
	all = map[string]string{}
	problem = each(root, "the whole", func(name string, v *yaml.Node) string {
		if name != key {
			return ""
		}
		return each(v, key, func(name string, v *yaml.Node) string {
			if v.Kind != yaml.ScalarNode {
				return fmt.Sprintf("%s.%.80s (line %d) is not a text", key, name, v.Line)
			}
			all[name] = v.Value
			return ""
		})
	})
	return all, problem
}

// each calls read with each key of an object, which null is an empty one of.
func each(n *yaml.Node, what string, read func(string, *yaml.Node) string) (problem string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return ""
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Sprintf("%s (line %d) is not an object", what, n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if problem := read(n.Content[i].Value, n.Content[i+1]); problem != "" {
			return problem
		}
	}
	return ""
}
