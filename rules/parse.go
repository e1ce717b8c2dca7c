// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ParseSave reads what iptables-save or ip6tables-save printed. A rule that meshnetd could not have
// written is kept as Foreign; a line that does not belong to the format is an error with its number.
func ParseSave(family Family, r io.Reader) (Ruleset, error) {
	rs := Ruleset{Family: family}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	var table *Table
	chains := map[string]int{} // of the table, by their names
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		fail := func(problem string) (Ruleset, error) {
			return Ruleset{}, fmt.Errorf("%s-save line %d: %s: %q", family, n, problem, line)
		}
		if name, ok := strings.CutPrefix(line, "*"); ok {
			if table != nil {
				return fail("table inside a table")
			}
			if slices.ContainsFunc(rs.Tables, func(t Table) bool { return t.Name == name }) {
				return fail("second table of that name")
			}
			rs.Tables = append(rs.Tables, Table{Name: name})
			table = &rs.Tables[len(rs.Tables)-1]
			clear(chains)
			continue
		}
		if table == nil {
			return fail("outside a table")
		}
		if line == "COMMIT" {
			table = nil
			continue
		}
		if declaration, ok := strings.CutPrefix(line, ":"); ok {
			fields := strings.Fields(declaration)
			if len(fields) < 2 {
				return fail("chain without policy")
			}
			if _, ok := chains[fields[0]]; ok {
				return fail("second chain of that name")
			}
			chains[fields[0]] = len(table.Chains)
			table.Chains = append(table.Chains, Chain{Name: fields[0], Builtin: fields[1] != "-"})
			continue
		}
		if !table.appendRule(line, chains) {
			return fail("not a rule of a chain of this table")
		}
	}
	if err := lines.Err(); err != nil {
		return Ruleset{}, fmt.Errorf("%s-save: %w", family, err)
	}
	if table != nil {
		return Ruleset{}, fmt.Errorf("%s-save: table %s has no COMMIT: the output is cut off", family, table.Name)
	}
	rs.sort()
	return rs, nil
}

// appendRule adds a line "-A CHAIN RULE", counters in front of it ignored, to a declared chain.
func (t *Table) appendRule(line string, chains map[string]int) bool {
	if strings.HasPrefix(line, "[") {
		_, line, _ = strings.Cut(line, " ")
	}
	rest, ok := strings.CutPrefix(line, "-A ")
	if !ok {
		return false
	}
	chain, text, _ := strings.Cut(rest, " ")
	i, ok := chains[chain]
	if !ok {
		return false
	}
	t.Chains[i].Rules = append(t.Chains[i].Rules, ParseRule(text))
	return true
}

// ParseRule reads a rule as iptables-save prints it, without "-A CHAIN". Where the text says anything that
// a Rule cannot, it returns a rule with the Foreign target: nothing is ever left out.
func ParseRule(text string) Rule {
	p := parser{words: strings.Fields(text)}
	var r Rule
	for p.more() && !p.failed {
		switch m, t := p.item(); {
		case m.Value != nil:
			r.Match = append(r.Match, m)
		case t != nil:
			r.Target = t
		}
	}
	if p.failed {
		return Rule{Target: Foreign(text)}
	}
	if r.Target == nil {
		r.Target = Count
	}
	return r
}

// parser walks the words of one rule; what it does not know makes the whole rule foreign.
type parser struct {
	words     []string
	protocol  string
	extension string // the last "-m NAME": mark and connmark share their option's name
	failed    bool
}

func (p *parser) more() bool { return len(p.words) > 0 }

func (p *parser) next() string {
	if len(p.words) == 0 {
		p.failed = true
		return ""
	}
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

// expect takes one word, which must be the given one.
func (p *parser) expect(word string) {
	if p.next() != word {
		p.failed = true
	}
}

// item reads one condition or the target. Extension names ("-m tcp") yield neither.
func (p *parser) item() (m Match, t Target) {
	word := p.next()
	if m.Not = word == "!"; m.Not {
		word = p.next()
	}
	switch i := slices.IndexFunc(fields[:], func(f field) bool { return f.option == word && (f.extension == "" || f.extension == p.extension) }); {
	case i >= 0:
		m.Field, m.Value = Field(i), fields[i].read(p)
		p.failed = p.failed || m.Not && !m.Negatable()
	case m.Not:
		p.failed = true
	case word == "-m":
		p.extension = p.next()
		p.failed = p.failed || p.extension != TCP && p.extension != UDP && !slices.ContainsFunc(fields[:], func(f field) bool { return f.extension == p.extension })
	case word == "-j":
		t = p.target(p.next())
	default:
		p.failed = true
	}
	return m, t
}

func (p *parser) target(name string) Target {
	switch name {
	case "RETURN", "ACCEPT", "DROP":
		return Verdict(name)
	case "REDIRECT":
		p.expect("--to-ports")
		return Redirect{p.port()}
	case "DNAT":
		p.expect("--to-destination")
		return p.dnat()
	case "TPROXY":
		p.expect("--on-port")
		t := TProxy{Port: p.port()}
		p.expect("--on-ip")
		t.Addr = p.addr()
		p.expect("--tproxy-mark")
		t.Mark = p.mark()
		return t
	case "MARK":
		p.expect("--set-xmark")
		return SetMark(p.mark())
	case "CONNMARK":
		word := p.next()
		if word == "--set-xmark" {
			return SetConnMark(p.mark())
		}
		p.expect("--nfmask")
		p.expect("0xffffffff")
		p.expect("--ctmask")
		p.expect("0xffffffff")
		if word == "--save-mark" {
			return SaveMark{}
		}
		p.failed = p.failed || word != "--restore-mark"
		return RestoreMark{}
	case "CT":
		p.expect("--zone")
		return CTZone(p.number(16))
	case "REJECT":
		p.expect("--reject-with")
		answer := RejectWith(p.next())
		p.failed = p.failed || answer != RejectReset && answer != RejectPort && answer != RejectPort4
		return answer
	}
	if name == "" || strings.ContainsAny(name, `"'`) {
		p.failed = true
		return nil
	}
	return p.jump(name)
}

// jump takes a chain name: a target extension of somebody else would be followed by its options.
func (p *parser) jump(name string) Target {
	if p.more() {
		p.failed = true
	}
	return Jump(name)
}

func (p *parser) prefix() netip.Prefix {
	word := p.next()
	if addr, err := netip.ParseAddr(word); err == nil {
		return Host(addr)
	}
	prefix, err := netip.ParsePrefix(word)
	p.failed = p.failed || err != nil
	return prefix
}

func (p *parser) addr() netip.Addr {
	addr, err := netip.ParseAddr(p.next())
	p.failed = p.failed || err != nil
	return addr
}

func (p *parser) number(bits int) uint32 {
	n, err := strconv.ParseUint(p.next(), 10, bits)
	p.failed = p.failed || err != nil
	return uint32(n)
}

func (p *parser) port() uint16 { return uint16(p.number(16)) }
