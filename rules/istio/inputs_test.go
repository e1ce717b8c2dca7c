// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
)

func TestInputs(t *testing.T) {
	meshtest.Inputs(t, mesh, func(key, value string) rules.Pod {
		switch kind, name, _ := strings.Cut(key, " "); kind {
		case "argument":
			return withValidation(injected(), name, value)
		case "environment":
			return withProxy(injected(), name, value)
		}
		return injected(key, value)
	})
}
