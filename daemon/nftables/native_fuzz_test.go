// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// sets answers with messages, those of the sets and those of the elements of each.
type sets struct {
	list, elements []message
	err            error
}

func (s sets) await() error { return nil }

func (s sets) limit() bound { return standard }

func (s sets) spare(length int) []byte { return fresh(length) }

func (s sets) reopen() error { return nil }

func (s sets) ask(request uint16, _ byte, _ []byte) ([]message, error) {
	switch {
	case s.err != nil:
		return nil, s.err
	case request == getSets:
		return s.list, nil
	case request == getElements:
		return s.elements, nil
	}
	return []message{{attributes: num(unix.NFTA_GEN_ID, 1)}}, nil
}

// A set that goes away while it is read is a change, and nothing else that fails is.
func TestSetsThatGoAway(t *testing.T) {
	if _, _, err := readSets(sets{err: unix.ENOENT}); !errors.Is(err, netlink.ErrMoved) {
		t.Errorf("got %v", err)
	}
	if _, _, err := readSets(sets{err: unix.EPERM}); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

// What a set is and holds counts, in no order of elements; what the kernel counts or numbers does not.
func TestSetAttributesThatCount(t *testing.T) {
	set := func(attrs ...[]byte) []message {
		return []message{{attributes: slices.Concat(append([][]byte{str(unix.NFTA_SET_NAME, "a")}, attrs...)...)}}
	}
	elements := func(list ...[]byte) []message {
		return []message{{attributes: nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...)}}
	}
	element := func(key byte, attrs ...[]byte) []byte {
		return nest(unix.NFTA_LIST_ELEM, append([][]byte{nest(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, key))}, attrs...)...)
	}
	some := set()
	for name, tt := range map[string]struct {
		a, b sets
		same bool
	}{
		"nothing":          {sets{}, sets{}, true},
		"a set":            {sets{}, sets{list: some}, false},
		"flags":            {sets{list: set(num(unix.NFTA_SET_FLAGS, 2))}, sets{list: set(num(unix.NFTA_SET_FLAGS, 6))}, false},
		"type":             {sets{list: set(num(unix.NFTA_SET_KEY_TYPE, 2))}, sets{list: set(num(unix.NFTA_SET_KEY_TYPE, 6))}, false},
		"timeout":          {sets{list: set(long(unix.NFTA_SET_TIMEOUT, 2))}, sets{list: set()}, false},
		"tomorrow's":       {sets{list: set(num(99, 2))}, sets{list: set()}, false},
		"handle":           {sets{list: set(long(setHandle, 2))}, sets{list: set(long(setHandle, 3))}, true},
		"number":           {sets{list: set(num(unix.NFTA_SET_ID, 2))}, sets{list: set()}, true},
		"how it is kept":   {sets{list: set(str(setType, "a"))}, sets{list: set()}, true},
		"count":            {sets{list: set(num(setCount, 2))}, sets{list: set()}, true},
		"padding":          {sets{list: set(attr(unix.NFTA_SET_PAD))}, sets{list: set()}, true},
		"an element":       {sets{list: some}, sets{list: some, elements: elements(element(1))}, false},
		"another one":      {sets{list: some, elements: elements(element(1))}, sets{list: some, elements: elements(element(2))}, false},
		"order":            {sets{list: some, elements: elements(element(1), element(2))}, sets{list: some, elements: elements(element(2), element(1))}, true},
		"several messages": {sets{list: some, elements: elements(element(1), element(2))}, sets{list: some, elements: append(elements(element(2)), elements(element(1))...)}, true},
		"end":              {sets{list: some, elements: elements(element(1))}, sets{list: some, elements: elements(element(1, num(unix.NFTA_SET_ELEM_FLAGS, 1)))}, false},
		"lives for a time": {sets{list: some, elements: elements(element(1))}, sets{list: some, elements: elements(element(1, long(unix.NFTA_SET_ELEM_TIMEOUT, 1)))}, false},
		"still to live":    {sets{list: some, elements: elements(element(1))}, sets{list: some, elements: elements(element(1, long(unix.NFTA_SET_ELEM_EXPIRATION, 1)))}, true},
		"element padding":  {sets{list: some, elements: elements(element(1))}, sets{list: some, elements: elements(element(1, attr(unix.NFTA_SET_ELEM_PAD)))}, true},
	} {
		print := func(s sets) string {
			list, elements, err := readSets(s)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return state{sets: list, elements: elements}.fingerprint(nil)
		}
		if same := print(tt.a) == print(tt.b); same != tt.same {
			t.Errorf("%s: same %t, want %t", name, same, tt.same)
		}
	}
}

// Whatever is said to be in the table, it is compared, or an answer that cannot be read is an error.
func FuzzNativeAnswers(f *testing.F) {
	n, err := compile(plans.DualStack(f))
	if err != nil {
		f.Fatal(err)
	}
	want, err := n.state()
	if err != nil {
		f.Fatal(err)
	}
	b := newBatch(nil)
	if err := n.appendTo(b); err != nil {
		f.Fatal(err)
	}
	for kind, list := range b.sent() {
		for _, m := range list[:1] {
			f.Add(uint8(kind), m.attributes)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, attributes []byte) {
		have := want
		one := []message{{family: nativeFamily, attributes: attributes}}
		var err error
		switch kind % 4 {
		case 0:
			have.rules, err = objects(one, fresh, readRule)
		case 1:
			have.chains, err = objects(one, fresh, readChain)
		case 2:
			have.sets, have.elements, err = readSets(sets{list: one})
		case 3:
			var text []byte
			text, err = elementsText(one)
			have.elements = []object{{family: nativeFamily, table: want.sets[0].table, chain: want.sets[0].chain, text: text}}
		}
		if err != nil || len(have.elements) > 0 && bytes.Equal(have.elements[0].text, want.elements[0].text) && kind%4 == 3 {
			return // that is what the set holds
		}
		if diffs := n.differences(have); len(diffs) == 0 {
			t.Errorf("nothing is found to be wrong with %x", attributes)
		}
		if v4, v6, err := have.nativePlan(); err != nil || !v4.Empty() || !v6.Empty() {
			t.Errorf("a plan is read: %v %v %v", v4, v6, err)
		}
	})
}

// Any rules that can be printed are read back from the table as they were, each family's, and any text is read or is none.
func FuzzNativePlan(f *testing.F) {
	dual := plans.DualStack(f)
	f.Add(dual.V4.String(), dual.V6.String(), "")
	f.Add("*nat\n:A - [0:0]\n-A A -d 10.0.0.0/8 -j "+strings.Repeat("LONG", 100)+"\nCOMMIT\n", "*raw\n:A - [0:0]\nCOMMIT\n*nat\n:A - [0:0]\nCOMMIT\n", "*nat\t-6 :A -\tCOMMIT\t")
	f.Fuzz(func(t *testing.T, four, six, comment string) {
		readable := func(family rules.Family, saved string) (rules.Ruleset, bool) {
			rs, err := rules.ParseSave(family, strings.NewReader(saved))
			strange := slices.ContainsFunc(rs.Tables, func(t rules.Table) bool {
				return t.Name == "" || slices.ContainsFunc(t.Chains, func(c rules.Chain) bool {
					return slices.ContainsFunc(c.Rules, func(r rules.Rule) bool { _, foreign := r.Target.(rules.Foreign); return foreign })
				})
			})
			return rs, err == nil && !strange && !strings.ContainsAny(saved, lineBreak+"\x00")
		}
		v4, ok4 := readable(rules.IPv4, four)
		v6, ok6 := readable(rules.IPv6, six)
		if ok4 && ok6 {
			s := stateOf(planChain(printedTables(v4), printedTables(v6)))
			for _, want := range []rules.Ruleset{v4, v6} {
				back, err := s.planOf(want.Family)
				if err != nil || back.String() != want.String() {
					t.Errorf("%v\n%s\nwas\n%s", err, back, want)
				}
			}
		}
		s := stateOf(nativeChain{name: planName, rules: []nativeRule{{comment: comment}}})
		if v4, v6, err := s.nativePlan(); err != nil || !v4.Empty() || !v6.Empty() {
			t.Errorf("a table that holds nothing else is taken for a plan: %v %v %v", v4, v6, err)
		}
	})
}

// stateOf is a table that holds one chain.
func stateOf(c nativeChain) state {
	s, err := native{chains: []nativeChain{c}}.state()
	if err != nil {
		panic(err)
	}
	return s
}
