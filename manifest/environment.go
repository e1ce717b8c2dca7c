// SPDX-License-Identifier: Apache-2.0

package manifest

import "strings"

// mostExpanded is how many bytes a container's arguments may become, and its environment: each name doubles what it stands
// for.
const mostExpanded = 1 << 20

// environment returns those variables of a container whose values the pod itself says; nil where any other object may say
// any of them, or where they are too many.
func (d document) environment(c container) map[string]string {
	if len(c.EnvFrom) > 0 {
		return nil
	}
	env, bytes := make(map[string]string, len(c.Env)), 0
	for _, v := range c.Env {
		value, known := expand(v.Value, env)
		if v.ValueFrom != nil {
			value, known = d.fieldOf(v.ValueFrom.FieldRef)
		}
		if delete(env, v.Name); known {
			env[v.Name] = value
		}
		if bytes += len(value); bytes > mostExpanded {
			return nil
		}
	}
	return env
}

// fieldOf returns the value of a field of the pod that is known before the pod runs.
func (d document) fieldOf(ref *fieldRef) (value string, known bool) {
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

// expanded returns a command line as the kubelet expands it, and whether it is known.
func expanded(words []string, env map[string]string) (all []string, known bool) {
	bytes := 0
	for _, word := range words {
		text, known := expand(word, env)
		if bytes += len(text); !known || bytes > mostExpanded {
			return nil, false
		}
		all = append(all, text)
	}
	return all, true
}

// expand replaces each $(NAME) by the variable's value, and $$ by $. The value of any other name is not known: the kubelet
// may, for one, have the addresses of services for it.
func expand(text string, env map[string]string) (expanded string, known bool) {
	if !strings.Contains(text, "$") {
		return text, true
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		switch out.WriteString(before); {
		case out.Len() > mostExpanded:
			return out.String(), false // whoever asks counts it
		case !found:
			return out.String(), true
		}
		name, rest, closed := strings.Cut(strings.TrimPrefix(after, "("), ")")
		switch value, has := env[name]; {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			text = after[1:]
		case !strings.HasPrefix(after, "(") || !closed:
			out.WriteByte('$')
			text = after
		case !has:
			return "", false
		default:
			out.WriteString(value)
			text = rest
		}
	}
}
