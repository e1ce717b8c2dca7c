// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"slices"

	"github.com/BurntSushi/toml"
)

// Pair is a key of a table, with its text.
type Pair struct {
	Line       int
	Key, Value string
}

// Pairs reads a file that is one table of texts, in the file's order, and gives each to check. Its error is Problems, all of
// them.
func Pairs(file, text, name string, check func(Pair) error) error {
	meta, top, err := decode(file, text)
	if err != nil {
		return err
	}
	var problems Problems
	report := func(at int, key, what string) { problems = append(problems, Problem{file, max(1, at), key, what}) }
	var pairs []Pair
	for key, value := range top {
		var table map[string]toml.Primitive
		if err := meta.PrimitiveDecode(value, &table); key != name || err != nil {
			report(line(meta, value), key, "unknown key: the file is one table ["+name+"]")
			continue
		}
		for key, value := range table {
			p := Pair{Line: line(meta, value), Key: key}
			if err := meta.PrimitiveDecode(value, &p.Value); err != nil {
				report(p.Line, key, plain(err))
				continue
			}
			pairs = append(pairs, p)
		}
	}
	slices.SortFunc(pairs, func(a, b Pair) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key)) })
	for _, p := range pairs {
		if err := check(p); err != nil {
			report(p.Line, p.Key, err.Error())
		}
	}
	if len(pairs)+len(problems) == 0 {
		report(1, name, "there is nothing in this table")
	}
	if len(problems) > 0 {
		return problems.sorted()
	}
	return nil
}
