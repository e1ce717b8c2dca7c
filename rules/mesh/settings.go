// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// settings lists the fields of an intent as its JSON names them, with what in the pod gave each; those of a field that has
// fields of its own stand alone, as "inbound.port". A field's tag has the key of the node's configuration, and the word for
// no value where that is not "none".
func settings(intent reflect.Value, within string, given map[any]string) (all []rules.Setting) {
	for i := range intent.NumField() {
		field, v := intent.Type().Field(i), intent.Field(i)
		name := field.Tag.Get("json")
		if !field.IsExported() || name == "-" {
			continue
		}
		if _, whole := v.Interface().(fmt.Stringer); v.Kind() == reflect.Struct && !whole {
			all = append(all, settings(v, within+name+".", given)...)
			continue
		}
		all = append(all, rules.Setting{Name: within + name, Value: spell(v, field.Tag), Source: given[v.Addr().Interface()], Key: field.Tag.Get("key")})
	}
	return all
}

// spell returns a value as text. An empty list is not the same as none where the tag has a word for that.
func spell(v reflect.Value, tag reflect.StructTag) string {
	word, none := tag.Lookup("none")
	addr, isAddr := v.Interface().(netip.Addr)
	switch {
	case none && v.IsZero():
		return word
	case v.Kind() == reflect.Slice && v.Len() == 0, isAddr && !addr.IsValid():
		return "none"
	case v.Kind() != reflect.Slice:
		return fmt.Sprint(v.Interface())
	}
	values := make([]any, v.Len())
	for i := range values {
		values[i] = v.Index(i).Interface()
	}
	return List(values)
}

// List prints values with commas between them.
func List[T any](values []T) string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = fmt.Sprint(value)
	}
	return strings.Join(words, ", ")
}
