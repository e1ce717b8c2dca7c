// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// remembered is a sandbox that nobody may look at.
type remembered struct{ pod }

func (remembered) Explain() Explanation           { panic("looked at the pod") }
func (remembered) Plan() Plan                     { panic("looked at the pod") }
func (remembered) Verify(context.Context) Verdict { panic("looked at the pod") }
func (remembered) Repair(context.Context) Verdict { panic("changed the pod") }

// Who reaches the address reads the status and explanations, and nothing else; nothing that is asked looks at a pod.
func TestRemote(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	read := func() Status {
		return Status{Version: "v1", Reload: func() error { panic("reloaded") },
			Sandboxes: []Sandbox{{ID: "abc", Namespace: "shop", Name: "cart", Live: remembered{pod{why: someReasons}}}}}
	}
	serving(t, func(ctx context.Context) error {
		return ServePages(ctx, address, append([]Page{hello}, Remote(read)...)...)
	})
	code, text := get(t, "tcp", address, path)
	var told Status
	if err := json.Unmarshal([]byte(text), &told); code != http.StatusOK || err != nil || len(told.Sandboxes) != 1 || told.Sandboxes[0].Name != "cart" {
		t.Errorf("%d, %v: %s", code, err, text)
	}
	code, text = get(t, "tcp", address, sandboxPath("abc", "explain"))
	var why Explanation
	if err := json.Unmarshal([]byte(text), &why); code != http.StatusOK || err != nil {
		t.Errorf("%d, %v: %s", code, err, text)
	}
	if diff := cmp.Diff(someReasons, why); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	handler := muxOf(Remote(read))
	for request, want := range map[string]int{
		"GET " + sandboxPath("other", "explain"): http.StatusGone,
		"GET " + sandboxPath("abc", "verify"):    http.StatusNotFound,
		"GET " + sandboxPath("abc", "plan"):      http.StatusNotFound,
		"POST " + sandboxPath("abc", "repair"):   http.StatusNotFound,
		"POST " + reload:                         http.StatusNotFound,
		"POST " + path:                           http.StatusMethodNotAllowed,
		"DELETE " + path:                         http.StatusMethodNotAllowed,
	} {
		method, at, _ := strings.Cut(request, " ")
		answer := httptest.NewRecorder()
		if handler.ServeHTTP(answer, httptest.NewRequest(method, at, nil)); answer.Code != want {
			t.Errorf("%s: %d, want %d: %s", request, answer.Code, want, answer.Body)
		}
	}
}

// Those who ask again and again have a tenth of the time: the next answer begins when nine times the time of the last is over.
// Who waits for too long is told so.
func TestRemoteTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work = 90 * time.Millisecond
		const readers = 10
		begun := make(chan time.Time, readers)
		pages := muxOf(Remote(func() Status {
			begun <- time.Now()
			<-time.After(work)
			return Status{}
		}))
		codes := make(chan int, readers)
		for range readers {
			go func() {
				answer := httptest.NewRecorder()
				pages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
				codes <- answer.Code
			}()
		}
		told := map[int]int{}
		for range readers {
			told[<-codes]++
		}
		if diff := cmp.Diff(map[int]int{http.StatusOK: 5, http.StatusServiceUnavailable: 5}, told); diff != "" {
			t.Errorf("within %s (-want +got):\n%s", remoteLimit, diff)
		}
		for last := <-begun; len(begun) > 0; {
			next := <-begun
			if apart := next.Sub(last); apart != (1+restFactor)*work {
				t.Errorf("two answers began %s apart, want %s", apart, (1+restFactor)*work)
			}
			last = next
		}
	})
}
