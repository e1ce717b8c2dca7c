// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// Entry is what a key of a lockdown would need to let pass what was counted.
type Entry struct {
	Lockdown string   `json:"lockdown"` // FILE:LINE
	Key      string   `json:"key"`
	Value    string   `json:"value"` // to be added; of local_ports, to be taken out
	Seen     []string `json:"seen"`  // what it would let pass
	Pods     []string `json:"pods"`  // NAMESPACE/POD, some of those that need it
	MorePods bool     `json:"morePods,omitempty"`
}

// lackKeys are the keys that can let something pass, as they are printed. What peers are is a list.
var lackKeys = []string{"dns_servers", "allow", "proxy_egress", "allow_inbound", "icmp", "other_protocols", "local_ports"}

// Entries returns the fewest entries that let pass what lockdowns lack, and nothing else.
func Entries(lacks []status.Lack) (all []Entry, err error) {
	type of struct{ lockdown, key string }
	groups := map[of][]status.Lack{}
	var order []of
	for _, l := range lacks {
		g := of{l.Lockdown, l.Key}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], l)
	}
	slices.SortFunc(order, func(a, b of) int {
		return cmp.Or(cmp.Compare(a.lockdown, b.lockdown), slices.Index(lackKeys, a.key)-slices.Index(lackKeys, b.key))
	})
	for _, g := range order {
		entries, err := entriesOf(groups[g])
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
	}
	return all, nil
}

// entriesOf makes entries of what one key lacks.
func entriesOf(lacks []status.Lack) (all []Entry, err error) {
	first := lacks[0]
	covers := func(value string, l status.Lack) bool { return value == l.Value }
	var values []string
	switch first.Key {
	case "allow", "allow_inbound", "proxy_egress":
		peers := make([]rules.Peer, len(lacks))
		single := map[string]rules.Peer{}
		for i, l := range lacks {
			p, problem := rules.ParsePeer(l.Value)
			if problem != "" {
				return nil, fmt.Errorf("the daemon says %s = %q: %s", l.Key, l.Value, problem)
			}
			peers[i], single[l.Value] = p, p
		}
		merged := map[string]rules.Peer{}
		for _, p := range rules.MergePeers(peers) {
			merged[p.String()] = p
			values = append(values, p.String())
		}
		covers = func(value string, l status.Lack) bool { return merged[value].Covers(single[l.Value]) }
	default:
		for _, l := range lacks {
			values = append(values, l.Value)
		}
		slices.Sort(values)
		values = slices.Compact(values)
	}
	for _, value := range values {
		e := Entry{Lockdown: first.Lockdown, Key: first.Key, Value: value}
		for _, l := range lacks {
			if covers(value, l) {
				e.add(l)
			}
		}
		all = append(all, e)
	}
	return all, nil
}

// mostEntryPods and mostEntrySeen are how many pods and packets an entry names.
const (
	mostEntryPods = 3
	mostEntrySeen = 3
)

func (e *Entry) add(l status.Lack) {
	if len(e.Seen) < mostEntrySeen && !slices.Contains(e.Seen, l.Seen) {
		e.Seen = append(e.Seen, l.Seen)
	}
	e.MorePods = e.MorePods || l.MorePods
	for _, name := range l.Pods {
		switch pod := l.Namespace + "/" + name; {
		case slices.Contains(e.Pods, pod):
		case len(e.Pods) < mostEntryPods:
			e.Pods = append(e.Pods, pod)
		default:
			e.MorePods = true
		}
	}
}

// comment says whose it is.
func (e Entry) comment() string {
	text := strings.Join(e.Pods, ", ")
	if e.MorePods {
		text += " and more"
	}
	return text
}

// PrintEntries writes entries as a configuration has them, with the pods that need each as a comment; full are the namespaces in
// which more was counted than is remembered.
func PrintEntries(w io.Writer, all []Entry, full []string) error {
	var out strings.Builder
	if len(all) == 0 {
		out.WriteString("# nothing is known that a lockdown counted and does not let pass\n")
	}
	for i, e := range all {
		begins := i == 0 || all[i-1].Lockdown != e.Lockdown
		if begins {
			fmt.Fprintf(&out, "# [[lockdown]] of %s would let these pass, beside what it does today, with:\n", e.Lockdown)
		}
		list := slices.Contains([]string{"dns_servers", "allow", "proxy_egress", "allow_inbound"}, e.Key)
		switch {
		case list:
			if begins || all[i-1].Key != e.Key {
				fmt.Fprintf(&out, "%s = [\n", e.Key)
			}
			fmt.Fprintf(&out, "  %q, # %s\n", e.Value, e.comment())
			if i+1 == len(all) || all[i+1].Lockdown != e.Lockdown || all[i+1].Key != e.Key {
				out.WriteString("]\n")
			}
		case e.Key == "local_ports":
			fmt.Fprintf(&out, "# local_ports without %s: %s\n", e.Value, e.comment())
		default:
			fmt.Fprintf(&out, "%s = %q # %s: %s\n", e.Key, e.Value, e.comment(), strings.Join(e.Seen, ", "))
		}
	}
	for _, namespace := range full {
		fmt.Fprintf(&out, "# more was counted in namespace %s than is remembered\n", namespace)
	}
	_, err := io.WriteString(w, PlainLines(out.String()))
	return err
}

// EntriesDocument is the same for programs.
func EntriesDocument(all []Entry, full []string) any {
	return struct {
		Entries []Entry  `json:"entries"`
		Full    []string `json:"full"` // namespaces in which more was counted than is remembered
	}{append([]Entry{}, all...), append([]string{}, full...)}
}
