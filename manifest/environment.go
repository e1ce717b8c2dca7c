// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"
	"strings"
)

// mostWords is how many bytes the arguments and environments of all of a pod's containers may take together, as far as they
// are not the manifest's own: each variable can double what another one stands for.
const mostWords = 256 << 10

// budget is how many bytes are spent, whatever came of them.
type budget int

// spend reports whether there are as many bytes left of most, before anything is made of them.
func (b *budget) spend(bytes, most int) bool {
	if bytes > most-int(*b) {
		return false
	}
	*b += budget(bytes)
	return true
}

// environment returns those variables of a container whose values the pod itself says; nil where any other object may say
// any of them, or where they are too long.
func (d *document) environment(c container) map[string]string {
	if len(c.EnvFrom) > 0 || c.hidden {
		return nil
	}
	env := make(map[string]string, len(c.Env))
	for _, v := range c.Env {
		value, known, fits := expand(v.Value, env, &d.Spec.words)
		if !fits {
			return nil
		}
		if v.ValueFrom != nil {
			value, known = d.fieldOf(v.ValueFrom.FieldRef)
		}
		if delete(env, v.Name); known {
			env[v.Name] = value
		}
	}
	return env
}

// fieldOf returns the value of a field of the pod that is known before the pod runs.
func (d *document) fieldOf(ref *fieldRef) (value string, known bool) {
	if ref == nil {
		return "", false
	}
	switch ref.FieldPath {
	case "metadata.name":
		value = d.Metadata.Name
	case "metadata.namespace":
		value = d.Metadata.Namespace
	case "metadata.uid":
		value = d.Metadata.UID
	}
	return value, value != ""
}

// arguments returns a container's command line as the kubelet expands it; nil where that is not known, or too long.
func (d *document) arguments(c container, env map[string]string) []string {
	if c.long {
		return nil
	}
	all := slices.Grow([]string(nil), len(c.Command)+len(c.Args)) // nil where there are none
	for _, words := range [][]string{c.Command, c.Args} {
		for _, word := range words {
			text, known, _ := expand(word, env, &d.Spec.words)
			if !known {
				return nil
			}
			all = append(all, text)
		}
	}
	return all
}

// expand replaces each $(NAME) by the variable's value, and $$ by $. The value of any other name is not known: the kubelet
// may, for one, have the addresses of services for it. What does not fit into the budget is not known either.
func expand(text string, env map[string]string, of *budget) (expanded string, known, fits bool) {
	if !strings.Contains(text, "$$") && !strings.Contains(text, "$(") {
		return text, true, true
	}
	bytes := 0
	if !pieces(text, env, func(piece string) { bytes += len(piece) }) {
		return "", false, true
	}
	if !of.spend(bytes, mostWords) {
		return "", false, false
	}
	var out strings.Builder
	out.Grow(bytes)
	pieces(text, env, func(piece string) { out.WriteString(piece) })
	return out.String(), true, true
}

// pieces calls each for the parts of what a text stands for, and reports whether all of them are known.
func pieces(text string, env map[string]string, each func(string)) (known bool) {
	unclosed := len(text) - 1 - strings.LastIndexByte(text, ')') // bytes at the end, among which no bracket is closed
	for found := true; found; {
		var before string
		before, text, found = strings.Cut(text, "$")
		each(before)
		switch {
		case !found:
		case strings.HasPrefix(text, "$"):
			each("$")
			text = text[1:]
		case strings.HasPrefix(text, "(") && len(text) > unclosed:
			name, after, _ := strings.Cut(text[1:], ")")
			value, has := env[name]
			if !has {
				return false
			}
			each(value)
			text = after
		default:
			each("$")
		}
	}
	return true
}
