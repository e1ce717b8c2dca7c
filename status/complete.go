// SPDX-License-Identifier: Apache-2.0

package status

import "reflect"

// complete returns a copy of what is told with empty lists and maps for absent ones, so that JSON has no null for them.
func complete[T any](told T) T {
	fill(reflect.ValueOf(&told).Elem())
	return told
}

// fill puts copies in the place of whatever it would otherwise share with who tells it.
func fill(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case v.Kind() == reflect.Slice:
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(own, v)
		for i := range own.Len() {
			fill(own.Index(i))
		}
		v.Set(own)
	case v.Kind() == reflect.Pointer && !v.IsNil():
		own := reflect.New(v.Type().Elem())
		own.Elem().Set(v.Elem())
		fill(own.Elem())
		v.Set(own)
	case v.Kind() == reflect.Map && v.IsNil():
		v.Set(reflect.MakeMap(v.Type()))
	}
}
