// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// inventor is a kernel of the future: everything that it shows has attributes that nobody knows.
type inventor struct {
	kernel
	odd string // the place of one of them that has another value in the second message that has it
	met int
}

const (
	invented = 99
	usual    = "\x00\x00\x00\x01"
)

func (k *inventor) ask(request uint16, family byte, attributes []byte) ([]message, error) {
	messages, err := k.kernel.ask(request, family, attributes)
	if request == getGen {
		return messages, err
	}
	for i := range messages {
		messages[i].attributes = k.invent(answers(request), messages[i].attributes)
	}
	return messages, err
}

// holds are the lists that an inventor adds to, beside messages.
var holds = map[string]bool{"0": true, "3": true, "3/4": true, "6": true, "6/4": true, "6/4/1": true, "9": true, "12": true, "12/3": true, "12/3/1": true}

func (k *inventor) invent(list string, attributes []byte) []byte {
	p := path{list: list}
	var out wire
	_ = eachAttribute(attributes, func(a attribute) error {
		here := p.to(a)
		if holds[here] || list == element && a.kind == unix.NFTA_EXPR_DATA {
			a.value = k.invent(here, a.value)
		}
		out.bytes(a.kind, a.value)
		return nil
	})
	value := usual
	if list == k.odd {
		if k.met++; k.met == 2 {
			value = "\x00\x00\x00\x02"
		}
	}
	if list != "6/4" && list != "12/3" { // lists of the same again
		out.bytes(invented, []byte(value))
	}
	return out
}

// What a later kernel shows beside our rules makes them nobody else's, as long as it is what it shows of its own accord.
func TestKernelOfTheFuture(t *testing.T) {
	for _, dialect := range []Dialect{IPTables, Native} {
		t.Run(string(dialect), func(t *testing.T) {
			s, plan := newSandbox(t), plans.DualStack(t)
			want, err := New(dialect).wanted(plan)
			if err != nil {
				t.Fatal(err)
			}
			c := s.dial(t)
			empty, err := read(c)
			if err != nil {
				t.Fatal(err)
			}
			b, err := want.changes(empty)
			if err != nil {
				t.Fatal(err)
			}
			defer b.release()
			known := b.shape()
			if err := c.transact(b); err != nil {
				t.Fatal(err)
			}
			differences := func(k kernel) []rules.Difference {
				t.Helper()
				now, err := read(k)
				if err != nil {
					t.Fatal(err)
				}
				diffs, err := want.differences(now)
				if err != nil {
					t.Fatal(err)
				}
				return diffs
			}
			if len(differences(&inventor{kernel: c})) == 0 {
				t.Fatal("unknown attributes are overlooked")
			}
			added, err := known.learn(&inventor{kernel: c})
			if err != nil {
				t.Fatal(err)
			}
			if diffs := differences(added.of(&inventor{kernel: c})); len(diffs) > 0 {
				t.Errorf("%d differences, such as %s; learned of %q", len(diffs), diffs[0], slices.Sorted(maps.Keys(added.values)))
			}
			for place := range added.values {
				list, _ := strings.CutSuffix(place, "/99")
				if list == "12" || dialect == IPTables && !strings.HasPrefix(list, element) {
					continue // not read: of iptables' tables and chains, what is known of them is
				}
				if shownTwice(t, c, list) && len(differences(added.of(&inventor{kernel: c, odd: list}))) == 0 {
					t.Errorf("another value at %s is overlooked", place)
				}
			}
		})
	}
}

// reversing is a kernel that sends the attributes of expressions the other way round.
type reversing struct{ kernel }

func (k reversing) ask(request uint16, family byte, attributes []byte) ([]message, error) {
	messages, err := k.kernel.ask(request, family, attributes)
	for i := range messages {
		if request == getRules {
			messages[i].attributes = reversed(answers(request), messages[i].attributes)
		}
	}
	return messages, err
}

func reversed(list string, attributes []byte) []byte {
	p := path{list: list}
	var all []attribute
	_ = eachAttribute(attributes, func(a attribute) error {
		if here := p.to(a); holds[here] || list == element && a.kind == unix.NFTA_EXPR_DATA {
			a.value = reversed(here, a.value)
		}
		all = append(all, a)
		return nil
	})
	if strings.HasPrefix(list, element+" ") {
		slices.Reverse(all)
	}
	var out wire
	for _, a := range all {
		out.bytes(a.kind, a.value)
	}
	return out
}

// Kernels send the attributes of an expression in one order or another, which means nothing.
func TestOrderOfAttributesMeansNothing(t *testing.T) {
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Jump("A"))
	b.Append("nat", "A", "", rules.Return, rules.Protocol(rules.TCP), rules.OwnerUIDs(1, 5))
	b.Append("nat", "A", "", rules.Redirect{Port: 2}, rules.Protocol(rules.TCP))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4)}
	for _, dialect := range []Dialect{IPTables, Native} {
		s := newSandbox(t)
		if _, err := New(dialect).Apply(t.Context(), s.ns, plan); err != nil {
			t.Fatal(err)
		}
		now, err := read(reversing{s.dial(t)})
		if err != nil {
			t.Fatal(err)
		}
		want, err := New(dialect).wanted(plan)
		if err != nil {
			t.Fatal(err)
		}
		if diffs, err := want.differences(now); err != nil || len(diffs) > 0 {
			t.Errorf("%s: %v, %v", dialect, diffs, err)
		}
	}
}

// shownTwice reports whether the kernel shows the list more than once.
func shownTwice(t *testing.T, c kernel, list string) bool {
	k := &inventor{kernel: c, odd: list}
	if _, err := read(k); err != nil {
		t.Fatal(err)
	}
	return k.met > 1
}

// This kernel adds nothing that would have to be known.
func TestThisKernelAddsNothingUnknown(t *testing.T) {
	for _, dialect := range []Dialect{IPTables, Native} {
		s := newSandbox(t)
		learned, err := Learn(t.Context(), dialect, s.ns, plans.DualStack(t))
		if err != nil {
			t.Fatal(err)
		}
		diffs, err := New(dialect).Verify(t.Context(), s.ns, plans.DualStack(t))
		if err != nil || len(diffs) > 0 {
			t.Errorf("%s: without what was learned, %q: %v, %v", dialect, learned.added.values, diffs, err)
		}
	}
}

// Whatever a kernel sends, nothing goes but what was learned.
func FuzzAdditions(f *testing.F) {
	var w wire
	at := w.nest(unix.NFTA_RULE_EXPRESSIONS)
	expression := w.nest(unix.NFTA_LIST_ELEM)
	w.text(unix.NFTA_EXPR_NAME, "cmp")
	data := w.nest(unix.NFTA_EXPR_DATA)
	w.number(unix.NFTA_CMP_OP, 0)
	w.number(invented, 1)
	w.end(data)
	w.end(expression)
	w.end(at)
	f.Add([]byte(w))
	a := &additions{values: map[string]string{"6/4/1 cmp/2/99": usual}, in: map[string]bool{"6": true, "6/4": true, "6/4/1": true, "6/4/1 cmp/2": true}}
	f.Fuzz(func(t *testing.T, list []byte) {
		out := a.without("6", list)
		if again := a.without("6", out); !bytes.Equal(again, out) {
			t.Errorf("%x becomes %x, and then %x", list, out, again)
		}
		if len(out) > len(list)+3 {
			t.Errorf("%x grows to %x", list, out)
		}
		if bytes.Equal(list, w) && bytes.Contains(out, binary.NativeEndian.AppendUint16(nil, invented)) {
			t.Error("nothing goes")
		}
	})
}
