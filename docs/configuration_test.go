// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
)

var (
	tableLine = regexp.MustCompile(`(?m)^(?:# )?(\[\[?[a-z_.]+\]\]?)$`)
	keyLine   = regexp.MustCompile(`(?m)^([a-z0-9_]+) = `)
)

// configuration.md is config/reference.toml, each key or table under a heading that other pages can point at.
func TestConfigurationPage(t *testing.T) {
	blocks := strings.Split(strings.TrimSpace(read(t, "../config/reference.toml")), "\n\n")
	_, intro, _ := strings.Cut(blocks[0], "#\n# ")
	var page strings.Builder
	fmt.Fprintf(&page, "# Configuration\n\nWritten by a test from `config/reference.toml` (`make docs`).\n\n%s\n", strings.ReplaceAll(intro, "\n# ", "\n"))
	table := ""
	for _, block := range blocks[1:] {
		var names []string
		if found := tableLine.FindStringSubmatch(block); found != nil {
			names = []string{strings.Trim(found[1], "[]")}
			if !strings.HasPrefix(found[0], "#") {
				table = names[0] + "."
			}
		} else {
			for _, key := range keyLine.FindAllStringSubmatch(block, -1) {
				names = append(names, table+key[1])
			}
		}
		if names == nil {
			t.Errorf("of no key or table:\n%s", block)
		}
		fmt.Fprintf(&page, "\n### %s\n\n```toml\n%s\n```\n", strings.Join(names, ", "), block)
	}
	golden.Check(t, "../configuration.md", page.String())
}
