// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"net/http"
)

const reload = "/v1/reload"

// Reloaded is what came of reading the configuration again.
type Reloaded struct {
	Problem string `json:"problem"` // why nothing was changed; "" where the configuration was taken over
}

// Reload has the daemon read its configuration again. It returns when that holds for new pods, or was refused.
func Reload(ctx context.Context, socket string) (Reloaded, error) {
	return ask[Reloaded](ctx, socket, "reload the configuration", http.MethodPost, reload)
}

// reloaded reads the configuration again and returns what came of it.
func reloaded(s Status) Reloaded {
	if s.Reload == nil {
		return Reloaded{Problem: "this daemon cannot read its configuration again: restart it"}
	}
	if err := s.Reload(); err != nil {
		return Reloaded{Problem: err.Error()}
	}
	return Reloaded{}
}
