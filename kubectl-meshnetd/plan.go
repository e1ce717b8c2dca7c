// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// outcome is what would become of a pod.
type outcome string

const (
	unchanged outcome = "unchanged" // it holds these rules
	fresh     outcome = "new"       // it has none of its daemon's, and would get them when it starts again
	changed   outcome = "changed"   // other rules, that take what those take that it holds
	loosened  outcome = "loosened"  // rules that let go what those take that it holds, or lead it elsewhere
	refused   outcome = "refused"   // it, or a container of it, would not start again
	outside   outcome = "outside"   // it has no rules, and is to have none
)

// planned is what would become of one pod, and why.
type planned struct {
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	Node      string  `json:"node"`
	Outcome   outcome `json:"outcome"`
	Mesh      string  `json:"mesh"`
	Why       string  `json:"why"`
}

func planCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "plan",
		Short: "Say which pods would be refused, loosened or changed by this release and a configuration",
		Long: "Reads the pods of the API server, 500 at once, decides each by the rules of this plugin and by the configuration of the\n" +
			"chart's ConfigMap, or of --config, and compares with the rules that its daemon says it holds. Listed are pods that\n" +
			"would be refused, loosened (what its rules take is let go, or led elsewhere), changed, and new: without rules of meshnetd's as yet.\n" +
			"-o wide lists those too that stay as they are.\n\n" +
			"Exit 0 nothing would be refused or loosened; 1 it did not work, or a node did not answer; 2 wrong command line or\n" +
			"configuration; 3 a pod would be refused; 4 a pod would be loosened.",
		Example: "  kubectl meshnetd plan -A\n  kubectl meshnetd plan -n shop --config new.toml\n  kubectl meshnetd plan -A -o json | jq -r '.pods[] | select(.outcome == \"refused\")'",
		Args:    cobra.NoArgs,
	}
	all := allFlag(c)
	selector := selectorFlag(c, "pods")
	file := c.Flags().String("config", "", "configuration `FILE` to decide by, instead of the ConfigMap's")
	o.outputFlag(c, "wide", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		return k.plan(c, *all, *selector, *file)
	}
	return c
}

func (c *cluster) plan(command *cobra.Command, all bool, selector, file string) error {
	shown := newTable(command.OutOrStdout(), c.output, []column{{"NAMESPACE", 14}, {"NAME", 32}, {"NODE", 0}, {"OUTCOME", 9}, {"MESH", 7}, {"WHY", 0}})
	have := holdings{c: c, pods: map[[2]string]held{}, silent: map[string]bool{}, told: map[string]string{}, looser: nil}
	silent, err := ask(command, c, "", shown, heldBy, func(pods map[[2]string]held) {
		for name, h := range pods {
			have.pods[name] = h
		}
	})
	if err != nil {
		return err
	}
	for _, s := range silent {
		have.silent[s.node] = true
	}
	cfg, where, err := c.planConfiguration(command.Context(), file)
	var coded *exit
	if errors.As(err, &coded) {
		return err
	} else if err != nil {
		return &exit{exitFailed, err}
	}
	p := &planner{cfg: cfg, node: explain.Node(cfg), have: &have}
	have.looser = p.node.Loosening
	found, counts := []planned{}, map[outcome]int{}
	err = c.pages(command.Context(), all, selector, p, func(one planned) {
		counts[one.Outcome]++
		if one.Outcome == outside || one.Outcome == unchanged && c.output != "wide" {
			return
		}
		shown.row(one.Namespace, one.Name, one.Node, string(one.Outcome), one.Mesh, one.Why)
		if c.output == "json" || c.output == "yaml" {
			found = append(found, one)
		}
	})
	if err != nil {
		return &exit{exitFailed, err}
	}
	shown.row("total", fmt.Sprintf("%d new, %d changed, %d loosened, %d refused, %d unchanged, %d outside, by %s", counts[fresh], counts[changed],
		counts[loosened], counts[refused], counts[unchanged], counts[outside], where))
	if err := shown.document(struct {
		Pods          []planned       `json:"pods"`
		Total         map[outcome]int `json:"total"`
		Configuration string          `json:"configuration"`
	}{found, counts, where}); err != nil {
		return err
	}
	unknown := verdict(command, silent, tally{})
	switch {
	case counts[refused] > 0:
		return &exit{exitRefused, fmt.Errorf("%d pods would be refused", counts[refused])}
	case counts[loosened] > 0:
		return &exit{exitUnprotected, fmt.Errorf("%d pods would be loosened", counts[loosened])}
	}
	return unknown
}

// planConfiguration is that of a file, or of any daemon's ConfigMap, which is one for all.
func (c *cluster) planConfiguration(ctx context.Context, file string) (config.Config, string, error) {
	if file != "" {
		return c.configuration(ctx, place{}, file)
	}
	daemons, err := c.daemons(ctx, "")
	if err != nil {
		return config.Config{}, "", err
	}
	for _, d := range daemons {
		return c.configuration(ctx, place{daemon: d}, "")
	}
	return c.configuration(ctx, place{}, "")
}

// pages has each pod of the API server planned, page by page, and taken in the order of the pages.
func (c *cluster) pages(ctx context.Context, all bool, selector string, p *planner, take func(planned)) error {
	query := url.Values{}
	if selector != "" {
		query.Set("labelSelector", selector)
	}
	var page []json.RawMessage
	flush := func() {
		for _, one := range p.all(ctx, page) {
			take(one)
		}
		page = page[:0]
	}
	err := list(ctx, c, query, func(item json.RawMessage) error {
		if page = append(page, item); len(page) == pageSize {
			flush()
		}
		return ctx.Err()
	}, c.podsPath(all)...)
	flush()
	return err
}

// planner plans pods.
type planner struct {
	cfg  config.Config
	node rules.Node
	have *holdings
}

// all plans the pods of a page, on all CPUs. Those that have ended are left out.
func (p *planner) all(ctx context.Context, page []json.RawMessage) []planned {
	outcomes := make([]*planned, len(page))
	next := make(chan int)
	var working sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		working.Go(func() {
			for i := range next {
				outcomes[i] = p.one(ctx, page[i])
			}
		})
	}
	for i := range page {
		next <- i
	}
	close(next)
	working.Wait()
	var all []planned
	for _, one := range outcomes {
		if one != nil {
			all = append(all, *one)
		}
	}
	return all
}

func (p *planner) one(ctx context.Context, item json.RawMessage) *planned {
	var about pod
	if err := json.Unmarshal(item, &about); err != nil {
		return &planned{Outcome: refused, Why: "the API server's answer is no pod: " + err.Error()}
	}
	if about.ended() {
		return nil
	}
	one := &planned{Namespace: about.Metadata.Namespace, Name: about.Metadata.Name, Node: about.Spec.NodeName}
	read, err := manifest.Item(item)
	if err != nil {
		one.Outcome, one.Why = refused, err.Error()
		return one
	}
	v := explain.Decided(p.cfg, read, p.node.Decide(read))
	one.Mesh = v.Decision.Mesh
	has, known := p.have.pods[[2]string{read.Namespace, read.Name}]
	switch {
	case v.Decision.Action == rules.Reject:
		one.Outcome, one.Why = refused, v.Decision.Detail
	case v.Refused():
		one.Outcome, one.Why = refused, v.Barred[0]
	case v.Decision.Action == rules.Skip && !known:
		one.Outcome, one.Why = outside, v.Decision.Detail
	case v.Decision.Action == rules.Skip:
		one.Outcome, one.Why = loosened, "it has rules, and would be left alone: "+v.Decision.Detail
	case known && has.plan == v.Plan.Key():
		one.Outcome = unchanged
	case known:
		one.Outcome, one.Why = p.have.compare(ctx, has, v.Plan)
	case p.have.silent[one.Node]:
		one.Outcome, one.Why = fresh, "its node does not say what it has: "+v.Decision.Detail
	default:
		one.Outcome, one.Why = fresh, "without rules of its daemon's as yet: "+v.Decision.Detail
	}
	return one
}

// held is what a daemon says of the rules that a pod has.
type held struct {
	at       place
	id, plan string
}

func heldBy(s status.Status, at place) map[[2]string]held {
	pods := map[[2]string]held{}
	for _, sb := range s.Sandboxes {
		if sb.State == "protected" || sb.State == "outdated" {
			pods[[2]string{sb.Namespace, sb.Name}] = held{at, sb.ID, sb.Plan}
		}
	}
	return pods
}

// holdings is what all pods have.
type holdings struct {
	c      *cluster
	pods   map[[2]string]held
	silent map[string]bool // nodes of which nothing is known
	looser rules.Loosening

	mu   sync.Mutex
	told map[string]string // by the keys of two plans, so that a daemon is asked once for pods of one kind
}

// compare says whether a plan lets go what the rules take that a pod has, which its daemon tells.
func (h *holdings) compare(ctx context.Context, has held, plan rules.Plan) (outcome, string) {
	kind := has.plan + " " + plan.Key()
	h.mu.Lock()
	defer h.mu.Unlock()
	less, known := h.told[kind]
	if !known {
		less = h.lessThan(ctx, has, plan)
		h.told[kind] = less
	}
	if less != "" {
		return loosened, less
	}
	return changed, "other rules, which let go nothing that its rules take"
}

func (h *holdings) lessThan(ctx context.Context, has held, plan rules.Plan) string {
	ctx, cancel := context.WithTimeout(ctx, h.c.patience)
	defer cancel()
	var x status.Explanation
	before := rules.Plan{}
	err := h.c.tell(ctx, has.at, &x, "/v1/sandboxes/"+has.id+"/explain")
	if err == nil {
		before, err = planOf(x)
	}
	if err != nil {
		return "other rules, and what its rules take is not known: " + err.Error()
	}
	return ofPlans.Replace(h.looser(before, plan))
}

// ofPlans says of two plans what a loosening says of a sandbox and its container.
var ofPlans = strings.NewReplacer("the sandbox's plan ", "its rules do: ", "with the container's it ", "the new ones: ")

// planOf makes a plan of what an explanation says of the rules.
func planOf(x status.Explanation) (rules.Plan, error) {
	return explain.PlanOf(status.Plan{Key: x.Key, Rules: x.Rules, Routes: x.Routes, Loopback: x.Loopback})
}
