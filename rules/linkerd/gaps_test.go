// SPDX-License-Identifier: Apache-2.0

package linkerd_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

func TestFrozenGaps(t *testing.T) {
	meshtest.FrozenGaps(t, func(d linkerd.Defaults) rules.Mesh { return linkerd.New(d) })
}
