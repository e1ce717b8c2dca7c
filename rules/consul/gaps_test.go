// SPDX-License-Identifier: Apache-2.0

package consul_test

import (
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
)

func TestFrozenGaps(t *testing.T) {
	meshtest.FrozenGaps(t, func(d consul.Defaults) rules.Mesh { return consul.New(d) })
}
