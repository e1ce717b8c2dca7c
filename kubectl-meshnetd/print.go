// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/meshnetd/meshnetd/status"
	"sigs.k8s.io/yaml"
)

// column is a column's head, and how wide it is at least: rows are printed before all of them are known.
type column struct {
	head  string
	width int
}

// table prints rows as they come, for people; a document at the end, for programs.
type table struct {
	out    io.Writer
	format string
	heads  []column
}

func newTable(out io.Writer, format string, heads []column) *table {
	return &table{out: out, format: format, heads: heads}
}

// begin prints the heads. The column NODE is as wide as the longest name.
func (t *table) begin(places []place) {
	cells := make([]string, len(t.heads))
	for i := range t.heads {
		cells[i] = t.heads[i].head
		t.heads[i].width = max(t.heads[i].width, len(cells[i]))
		for _, at := range places {
			if cells[i] == "NODE" {
				t.heads[i].width = max(t.heads[i].width, len(at.node))
			}
		}
	}
	t.row(cells...)
}

// row prints as many cells as there are columns.
func (t *table) row(cells ...string) {
	if t.format == "json" || t.format == "yaml" {
		return
	}
	var line strings.Builder
	for i, cell := range cells[:min(len(cells), len(t.heads))] {
		fmt.Fprintf(&line, "%-*s  ", t.heads[i].width, cmp.Or(status.Plain(cell), "-"))
	}
	fmt.Fprintln(t.out, strings.TrimRight(line.String(), " "))
}

// document prints for programs; for people nothing.
func (t *table) document(value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	switch {
	case err != nil:
		return err
	case t.format == "json":
		_, err = fmt.Fprintf(t.out, "%s\n", text)
	case t.format == "yaml":
		if text, err = yaml.JSONToYAML(text); err == nil {
			_, err = t.out.Write(text)
		}
	}
	return err
}
