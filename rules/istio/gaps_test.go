// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func TestFrozenGaps(t *testing.T) {
	meshtest.FrozenGaps(t, func(d istio.Defaults) rules.Mesh { return istio.New(d) })
}
