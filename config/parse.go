// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Problem is one thing that is wrong with a configuration file.
type Problem struct {
	File string
	Line int
	Key  string // "" where the file is no TOML
	What string
}

// String returns "FILE:LINE: KEY: WHAT".
func (p Problem) String() string {
	place := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Key != "" {
		place += p.Key + ": "
	}
	return place + p.What
}

// Problems is everything that is wrong with a configuration file, by line.
type Problems []Problem

// Error returns one line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) sorted() Problems {
	slices.SortFunc(ps, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key)) })
	return ps
}

// Parse reads and checks the text of a configuration file; file is its name in messages. Its error is
// Problems, all of them.
func Parse(file, text string) (Config, error) {
	config := unsaid()
	r := reader{file: file, keys: keys(&config), lists: lists(&config), lines: map[string]int{}}
	meta, top, err := decode(file, text)
	if err != nil {
		return Config{}, err
	}
	r.meta = meta
	r.table("", top)
	r.elements(text)
	inherited := config.inherit()
	for key, problem := range config.check(r.lines) {
		r.problems = append(r.problems, Problem{File: file, Line: r.lines[key], Key: key, What: problem})
	}
	if len(r.problems) > 0 {
		return Config{}, r.problems.sorted()
	}
	config.Origin = r.origin()
	for _, key := range inherited {
		if place, said := config.Origin["ipv6"]; said {
			config.Origin[key] = place
		}
	}
	return config, nil
}

func decode(file, text string) (meta toml.MetaData, top map[string]toml.Primitive, err error) {
	meta, err = toml.Decode(text, &top)
	var syntax toml.ParseError
	switch {
	case errors.As(err, &syntax):
		at := max(1, syntax.Position.Line) // the decoder does not number a file's first key
		return meta, nil, Problems{{File: file, Line: at, Key: syntax.LastKey, What: "not TOML: " + syntax.Message}}
	case err != nil:
		return meta, nil, Problems{{File: file, Line: 1, What: err.Error()}}
	}
	return meta, top, nil
}

// setter decodes the value of one key, checks it and stores it.
type setter func(meta toml.MetaData, value toml.Primitive) error

type reader struct {
	file     string
	meta     toml.MetaData
	keys     map[string]setter
	lists    map[string]list
	lines    map[string]int
	problems Problems
}

// origin returns where each key stands that is no table.
func (r *reader) origin() map[string]string {
	var places map[string]string
	for key, line := range r.lines {
		if _, known := r.keys[key]; !known {
			continue
		}
		if places == nil {
			places = map[string]string{}
		}
		places[key] = fmt.Sprintf("%s:%d", r.file, line)
	}
	return places
}

func (r *reader) report(key, what string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: r.lines[key], Key: key, What: what})
}

func (r *reader) table(prefix string, values map[string]toml.Primitive) {
	for name, value := range values {
		key := prefix + name
		r.lines[key] = line(r.meta, value)
		set, known := r.keys[key]
		_, isList := r.lists[key]
		switch {
		case known:
			if err := set(r.meta, value); err != nil {
				r.report(key, plain(err))
			}
		case isList: // see elements
			if r.meta.Type(key) != arrayOfTables {
				r.report(key, "is an array of tables: write [["+key+"]] for each")
			}
		case r.isTable(key):
			var inner map[string]toml.Primitive
			if kind := r.meta.Type(strings.Split(key, ".")...); kind != "Hash" && kind != "" { // "" is a dotted key's
				r.report(key, "is a table: write ["+key+"]")
				continue
			}
			if err := r.meta.PrimitiveDecode(value, &inner); err != nil {
				r.report(key, plain(err))
				continue
			}
			r.table(key+".", inner)
		default:
			r.report(key, "unknown key"+r.meant(key))
		}
	}
}

const arrayOfTables = "ArrayHash" // as the decoder calls it

// elements reads the arrays of tables from the text of the file. The decoder knows the lines of an array's
// last element only: so each element is read from the text that ends with it.
func (r *reader) elements(text string) {
	for name, list := range r.lists {
		var all []element
		for rest := text; ; {
			last, before := lastElement(rest, name)
			if last == nil {
				break
			}
			all, rest = append(all, *last), before
		}
		slices.Reverse(all)
		for i, e := range all {
			r.element(fmt.Sprintf("%s[%d]", name, i), e, list)
		}
	}
}

// element is one table of an array.
type element struct {
	meta   toml.MetaData
	line   int // of its header
	values map[string]toml.Primitive
}

// lastElement returns the last table of an array, and the text before it; nil where the text has none.
func lastElement(text, name string) (last *element, before string) {
	var top map[string]toml.Primitive
	meta, err := toml.Decode(text, &top)
	if err != nil || meta.Type(name) != arrayOfTables {
		return nil, ""
	}
	var tables []map[string]toml.Primitive
	if err := meta.PrimitiveDecode(top[name], &tables); err != nil || len(tables) == 0 {
		return nil, ""
	}
	header := line(meta, top[name])
	lines := strings.SplitAfter(text, "\n")
	return &element{meta, header, tables[len(tables)-1]}, strings.Join(lines[:header-1], "")
}

func (r *reader) element(name string, e element, list list) {
	keys, check := list.add()
	r.lines[name] = e.line
	if list.at != nil {
		list.at(fmt.Sprintf("%s:%d", r.file, e.line))
	}
	for _, must := range list.must {
		if _, ok := e.values[must]; !ok {
			r.report(name, "has no "+must)
		}
	}
	sound := len(r.problems)
	for last, value := range e.values {
		key := name + "." + last
		r.lines[key] = line(e.meta, value)
		set, known := keys[last]
		if !known {
			r.report(key, "unknown key")
		} else if err := set(e.meta, value); err != nil {
			r.report(key, plain(err))
		}
	}
	if len(r.problems) > sound {
		return // a consequence of a bad value that was reported
	}
	for key, problem := range check() {
		at := strings.TrimSuffix(name+"."+key, ".")
		if r.lines[at] == 0 {
			r.lines[at] = e.line
		}
		r.report(at, problem)
	}
}

func (r *reader) isTable(key string) bool {
	for known := range r.keys {
		if strings.HasPrefix(known, key+".") {
			return true
		}
	}
	return false
}

// meant suggests the table that a key belongs to, which is the most common mistake.
func (r *reader) meant(key string) string {
	last := key[strings.LastIndex(key, ".")+1:]
	if _, known := r.keys[last]; known {
		return ": did you mean " + last + "?"
	}
	for _, known := range slices.Sorted(maps.Keys(r.keys)) {
		if strings.HasSuffix(known, "."+last) {
			return ": did you mean " + known + "?"
		}
	}
	return ""
}

// located asks the decoder for the position of a value: it fails on every value, and the decoder adds the
// position to the failure.
type located struct{}

// UnmarshalTOML always fails.
func (*located) UnmarshalTOML(any) error { return errors.New("located") }

// line returns the line of a value; a table that only dotted keys imply is where its first key is.
func line(meta toml.MetaData, value toml.Primitive) int {
	var position toml.ParseError
	if err := meta.PrimitiveDecode(value, &located{}); errors.As(err, &position) && position.Position.Line > 0 {
		return position.Position.Line
	}
	first := 0
	var inner map[string]toml.Primitive
	if err := meta.PrimitiveDecode(value, &inner); err == nil {
		for _, v := range inner {
			if n := line(meta, v); first == 0 || n < first {
				first = n
			}
		}
	}
	return first
}

// plain drops the position that the decoder puts before its message: it is given already.
func plain(err error) string {
	message := err.Error()
	if strings.HasPrefix(message, "toml: ") {
		if i := strings.Index(message, "): "); i >= 0 {
			return message[i+3:]
		}
	}
	return message
}

// decoded decodes a value into raw and then calls store.
func decoded[T any](raw *T, store func() error) setter {
	return func(meta toml.MetaData, value toml.Primitive) error {
		if err := meta.PrimitiveDecode(value, raw); err != nil {
			return err
		}
		return store()
	}
}

// then stores what another setter has read.
func then(read setter, store func() error) setter {
	return func(meta toml.MetaData, value toml.Primitive) error {
		if err := read(meta, value); err != nil {
			return err
		}
		return store()
	}
}

func text[T ~string](target *T, check func(string) error) setter {
	var raw string
	return decoded(&raw, func() error {
		*target = T(raw)
		return check(raw)
	})
}

func texts(target *[]string, check func(string) error) setter {
	return each(target, func(s string) (string, error) { return s, check(s) })
}

func anyText(string) error { return nil }

// each reads a list, item by item, and names each that is bad. R is what the file has, T what comes of it.
func each[R, T any](target *[]T, read func(R) (T, error)) setter {
	var raw []R
	return decoded(&raw, func() error {
		all := make([]T, len(raw))
		var bad []string
		for i, item := range raw {
			var err error
			if all[i], err = read(item); err != nil {
				bad = append(bad, err.Error())
			}
		}
		if *target = all; len(bad) > 0 {
			return errors.New(strings.Join(bad, "; "))
		}
		return nil
	})
}

func boolean(target *bool) setter {
	return decoded(target, func() error { return nil })
}

// port reads a port that something can listen on.
func port(target *uint16) setter { return number(target, 1, 65535) }

func number[T uint16 | uint32 | int](target *T, least, most int64) setter {
	var raw int64
	return decoded(&raw, func() error {
		if raw < least || raw > most {
			return fmt.Errorf("%d is not between %d and %d", raw, least, most)
		}
		*target = T(raw)
		return nil
	})
}

func parsed[T any](target *T, parse func(string) (T, error)) setter {
	var raw string
	return decoded(&raw, func() error {
		value, err := parse(raw)
		if err != nil {
			return fmt.Errorf("%q: %w", raw, err)
		}
		*target = value
		return nil
	})
}
