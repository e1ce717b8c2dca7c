// SPDX-License-Identifier: Apache-2.0

package status

import (
	"errors"
	"testing"
)

func TestReload(t *testing.T) {
	for name, c := range map[string]struct {
		reload func() error
		want   string
	}{
		"taken over": {func() error { return nil }, ""},
		"refused":    {func() error { return errors.New("line 3: unknown key") }, "line 3: unknown key"},
		"cannot":     {nil, "this daemon cannot read its configuration again: restart it"},
	} {
		socket := socketIn(t)
		serveFunc(t, socket, "v1", func() Status { return Status{Version: "v1", Reload: c.reload} })
		got, err := Reload(t.Context(), socket)
		if err != nil || got.Problem != c.want {
			t.Errorf("%s: got %+v and %v, want %q", name, got, err, c.want)
		}
	}
	if _, err := Reload(t.Context(), t.TempDir()+"/nobody"); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody: got %v", err)
	}
}
