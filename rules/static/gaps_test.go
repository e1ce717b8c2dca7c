// SPDX-License-Identifier: Apache-2.0

package static_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/static"
)

func TestFrozenGaps(t *testing.T) {
	meshtest.FrozenGaps(t, func(d static.Profile) rules.Mesh { return static.New(d) })
}
