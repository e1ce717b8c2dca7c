// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packaging

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	queryToken   = regexp.MustCompile(`"[^"]*"|\[[^\]]*\]|\d+[smhd]|[\d.]+|[a-zA-Z_:][a-zA-Z0-9_:]*|[=!]~|[=!<>]=|[^\s]`)
	queryName    = regexp.MustCompile(`^[a-zA-Z_:]`)
	lookback     = regexp.MustCompile(`^\[(\d+[smhd]|\$__rate_interval)\]$`)
	words        = strings.Fields("absent count histogram_quantile increase max rate sum time vector and or unless offset bool") // beside metrics and labels
	takingLabels = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
)

// check reads a query word by word, which is enough to find a metric, a label or a value that does not exist.
func check(query string, known map[string]series) (names, problems []string) {
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	tokens := queryToken.FindAllString(query, -1)
	var grouped []string
	depth := 0
	for i := 0; i < len(tokens); i++ {
		token := tokens[i]
		switch {
		case slices.Contains(takingLabels, token):
			for i += 2; i < len(tokens) && tokens[i] != ")"; i++ {
				if tokens[i] != "," {
					grouped = append(grouped, tokens[i])
				}
			}
		case strings.HasPrefix(token, "["):
			if !lookback.MatchString(token) {
				complain("%s is no time to look back", token)
			}
		case token == "(":
			depth++
		case token == ")":
			depth--
		case token == "{":
			metric := ""
			if i > 0 {
				metric = tokens[i-1]
			}
			for i++; i+2 < len(tokens) && tokens[i] != "}"; i++ {
				if tokens[i] != "," {
					matches(known[metric], tokens[i], tokens[i+1], strings.Trim(tokens[i+2], `"`), complain)
					i += 2
				}
			}
		case slices.Contains(words, token) || !queryName.MatchString(token):
		case known[token] == nil:
			complain("there is no %s", token)
		default:
			names = append(names, token)
		}
	}
	for _, label := range grouped {
		if !slices.ContainsFunc(names, func(name string) bool { _, has := known[name][label]; return has }) {
			complain("no metric of it has the label %s", label)
		}
	}
	if depth != 0 || strings.Count(query, "{") != strings.Count(query, "}") {
		complain("brackets are not closed")
	}
	return names, problems
}

// matches finds values that no series has, and that would match nothing or everything for ever.
func matches(s series, label, operator, value string, complain func(string, ...any)) {
	values, has := s[label]
	switch {
	case !has:
		complain("it has no label %s", label)
	case values == nil || strings.HasPrefix(value, "$"):
	default:
		for _, one := range strings.Split(value, "|") {
			if !values[one] {
				complain("%s%s%q: no series has that", label, operator, one)
			}
		}
	}
}

// The test of the queries is only worth what this finds.
func TestCheckFinds(t *testing.T) {
	known := map[string]series{
		"a_total":         {"event": {"x": true, "y": true}, "instance": nil, "job": nil},
		"b_bucket":        {"stage": {"s": true}, "le": nil, "instance": nil},
		"process_cpu_sum": {"instance": nil},
	}
	for query, want := range map[string][]string{
		`a_total{event="x"}`: nil,
		`sum by (event) (rate(a_total{event=~"x|y",instance=~"$instance"}[5m])) > 0.5 or vector(0)`:  nil,
		`histogram_quantile(0.99, sum by (stage, le) (rate(b_bucket{stage="s"}[$__rate_interval])))`: nil,
		`a_total * on (instance) group_left (stage) b_bucket unless a_total offset 1h`:               nil,
		`c_total`:                      {"there is no c_total"},
		`rat(a_total[5m])`:             {"there is no rat"},
		`a_total{evnt="x"}`:            {"it has no label evnt"},
		`a_total{event="z"}`:           {`event="z": no series has that`},
		`a_total{event=~"x|z"}`:        {`event=~"z": no series has that`},
		`a_total{event!="z"}`:          {`event!="z": no series has that`},
		`sum by (stage) (a_total)`:     {"no metric of it has the label stage"},
		`rate(a_total[5])`:             {"[5] is no time to look back"},
		`sum(a_total`:                  {"brackets are not closed"},
		`rate(a_total{stage="s"}[5m])`: {"it has no label stage"},
	} {
		if _, got := check(query, known); !cmp.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}
