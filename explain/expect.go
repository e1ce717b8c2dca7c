// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

// Expectation is where a packet is to end.
type Expectation struct {
	Place string // FILE:LINE
	Text  string // the packet in words, such as "tcp in 8080"
	Want  string // where it is to end, in words, such as "proxy"

	sentence
	kinds    []rules.EndKind
	listener uint16 // 0 is any
}

// sentence is a packet in words: any of these may be left open.
type sentence struct {
	question Question
	out      bool
	port     string
	family   rules.Family
}

// ends are the words for where a packet ends.
var ends = []struct {
	word  string
	kinds []rules.EndKind
}{
	{"proxy", []rules.EndKind{rules.Redirected, rules.TProxied}},
	{"delivered", []rules.EndKind{rules.Delivered}},
	{"leaves", []rules.EndKind{rules.Leaves}},
	{"refused", []rules.EndKind{rules.Refused}},
	{"dropped", []rules.EndKind{rules.Dropped}},
	{"blocked", []rules.EndKind{rules.Refused, rules.Dropped}},
}

// ParseExpectations reads a file with the table [expect], which has a packet in words for each key, and its end for the value.
// Its error is config.Problems, all of them.
func ParseExpectations(file, text string) (all []Expectation, err error) {
	known := map[sentence]int{}
	err = config.Pairs(file, text, "expect", func(p config.Pair) error {
		e := Expectation{Place: fmt.Sprintf("%s:%d", file, p.Line), Text: p.Key, Want: p.Value}
		if err := errors.Join(e.parse(p.Key), e.parseEnd()); err != nil {
			return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		if before, twice := known[e.sentence]; twice {
			return fmt.Errorf("is the packet of line %d in other words", before)
		}
		known[e.sentence] = p.Line
		all = append(all, e)
		return nil
	})
	return all, err
}

func (e *Expectation) parseEnd() error {
	word, port, named := strings.Cut(e.Want, " ")
	var words []string
	for _, end := range ends {
		if words = append(words, end.word); end.word == word {
			e.kinds = end.kinds
		}
	}
	switch {
	case e.kinds == nil:
		return fmt.Errorf("%q is no end of a packet: want one of %s", e.Want, strings.Join(words, ", "))
	case named && e.kinds[0] != rules.Redirected:
		return fmt.Errorf("%q: only proxy has a port, its listener's, as in \"proxy 15001\"", e.Want)
	case named:
		n, err := portOf(port)
		e.listener = n
		return err
	}
	return nil
}

// meets reports whether a packet that ended there ended as it should.
func (e Expectation) meets(end rules.End) bool {
	return slices.Contains(e.kinds, end.Kind) && (e.listener == 0 || e.listener == end.Port)
}

const sentenceExample = `as in "tcp to 10.0.0.5:443 as uid 1000", "udp 443 out" or "tcp in 8080"`

// parse reads the protocol, and the rest in any order.
func (s *sentence) parse(text string) error {
	words := strings.Fields(text)
	if len(words) == 0 {
		return errors.New("no packet: want a protocol and where it goes, " + sentenceExample)
	}
	s.question.protocol, s.question.any = words[0], true
	values := map[string]*string{"to": &s.question.destination, "from": &s.question.source, "by": &s.question.iface,
		"uid": &s.question.uid, "gid": &s.question.gid}
	for rest := words[1:]; len(rest) > 0; rest = rest[1:] {
		word := rest[0]
		_, notPort := strconv.ParseUint(word, 10, 32)
		switch value := values[word]; {
		case value != nil:
			if rest = rest[1:]; len(rest) == 0 || *value != "" {
				return fmt.Errorf("%q stands before one value, once, %s", word, sentenceExample)
			}
			*value = rest[0]
		case word == "as" && len(rest) > 1 && (rest[1] == "uid" || rest[1] == "gid"):
		case word == "in":
			s.question.in = true
		case word == "out":
			s.out = true
		case word == "ipv4" && s.family == 0:
			s.family = rules.IPv4
		case word == "ipv6" && s.family == 0:
			s.family = rules.IPv6
		case notPort == nil && s.port == "":
			s.port = word
		default:
			return fmt.Errorf("%q is not understood here, %s", word, sentenceExample)
		}
	}
	return s.check()
}

func (s *sentence) check() error {
	if slices.Contains(portless, s.question.protocol) {
		to := s.question.destination
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(to, "["), "]"))
		switch {
		case s.port != "" || to != "" && err != nil:
			return fmt.Errorf("%s goes to an address, or anywhere, and has no port, as in \"icmp to 10.0.0.5\" or \"icmp out\"", s.question.protocol)
		case to == "":
			s.port = "0"
		default:
			s.question.destination = netip.AddrPortFrom(addr, 0).String()
		}
	}
	named := s.question.destination != ""
	switch {
	case s.question.in && s.out:
		return errors.New("it cannot go in and out")
	case named && s.port != "":
		return errors.New("its port stands behind the address, " + sentenceExample)
	case named && s.family != 0:
		return errors.New("its address says which family it is of")
	case !named && s.port == "":
		return errors.New("it names no port, " + sentenceExample)
	case !named && !s.question.in && !s.out:
		return errors.New("it says neither in nor out, " + sentenceExample)
	}
	s.out = !s.question.in
	if from, err := parseSource(s.question.source); err == nil && !named && s.family == 0 {
		s.family = rules.Packet{Destination: from}.Family()
	}
	for _, q := range s.questions(rules.Plan{}, nil) {
		if _, _, err := q.packet(nil); err != nil {
			return errors.New(inSentence.Replace(err.Error()))
		}
	}
	return nil
}

// inSentence has what `meshnetd trace` calls flags as words of a sentence.
var inSentence = strings.NewReplacer("is not tcp or udp, as in `tcp 203.0.113.10:443`: the rules know no other, and leave all others alone", "is none of tcp, udp, icmp, sctp and gre", "--in tcp :8080", "tcp in 8080", "--iface", "by", "--src", "from", "--uid", "uid", "--gid", "gid", "--in", "in", "--out", "out")

// questions are those that the sentence asks in a pod: of a packet without an address, one for each family.
func (s sentence) questions(plan rules.Plan, interfaces []rules.Interface) (all []Question) {
	if s.question.destination != "" {
		return []Question{s.question}
	}
	families := []rules.Family{s.family}
	if s.family == 0 {
		families = familiesOf(plan, interfaces)
	}
	for _, family := range families {
		host := map[rules.Family]string{rules.IPv4: "203.0.113.10", rules.IPv6: "[2001:db8::10]"}[family]
		if s.question.in {
			addr, _ := rules.Own(interfaces, family)
			if host = addr.String(); family == rules.IPv6 {
				host = "[" + host + "]"
			}
		}
		q := s.question
		q.destination = host + ":" + s.port
		all = append(all, q)
	}
	return all
}

// familiesOf returns those of the pod's addresses; where none is known, those that its rules are for, and IPv4.
func familiesOf(plan rules.Plan, interfaces []rules.Interface) []rules.Family {
	_, four := rules.Own(interfaces, rules.IPv4)
	_, six := rules.Own(interfaces, rules.IPv6)
	switch {
	case four && six, !four && !six && !plan.V6.Empty():
		return []rules.Family{rules.IPv4, rules.IPv6}
	case six:
		return []rules.Family{rules.IPv6}
	}
	return []rules.Family{rules.IPv4}
}
