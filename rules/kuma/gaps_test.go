// SPDX-License-Identifier: Apache-2.0

package kuma_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/kuma"
)

func TestFrozenGaps(t *testing.T) {
	meshtest.FrozenGaps(t, func(d kuma.Defaults) rules.Mesh { return kuma.New(d) })
}
