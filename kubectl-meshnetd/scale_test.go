// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/status"
)

// A cluster of a thousand nodes with fifty pods each.
const (
	manyNodes = 1000
	podsEach  = 50
)

// large is that cluster. Its pods are all of one kind, each with its own name and the padding that a real one has.
func large(b *testing.B) *fake {
	f := &fake{daemons: map[string]http.Handler{}}
	padding := strings.Repeat(`{"name":"X","value":"0123456789012345678901234567890123456789"},`, 50)
	item := func(node, i int) string {
		text := meshed(fmt.Sprintf("web-%d-%d", node, i), fmt.Sprintf("node-%d", node), "")
		return strings.Replace(text, `"image":"a"`, `"image":"a","env":[`+padding+`{"name":"Y","value":""}]`, 1)
	}
	for n := range manyNodes {
		name := fmt.Sprintf("node-%d", n)
		f.nodes = append(f.nodes, name)
		f.daemons[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			one := holding(b, item(n, 0))
			var all []status.Sandbox
			for i := range podsEach {
				one.Name, one.ID, one.Detail = fmt.Sprintf("web-%d-%d", n, i), fmt.Sprintf("%064d", n*podsEach+i), "annotation sidecar.istio.io/status is present"
				all = append(all, one)
			}
			healthy(all...).ServeHTTP(w, r)
		})
	}
	f.pods = func(_ string, page int) (items []string, more bool) {
		for i := range pageSize {
			at := page*pageSize + i
			items = append(items, item(at/podsEach, at%podsEach))
		}
		return items, (page+1)*pageSize < manyNodes*podsEach
	}
	return f
}

// What a whole cluster costs: seconds, and the plugin's memory at most. The API server is in this process.
func BenchmarkCluster(b *testing.B) {
	f := large(b)
	flags := f.serve(b)
	for _, args := range [][]string{{"status"}, {"pods", "-A"}, {"pods", "-A", "-o", "json"}, {"plan", "-A"}} {
		b.Run(strings.Join(args, " "), func(b *testing.B) {
			var most int64
			for b.Loop() {
				plugin := exec.CommandContext(b.Context(), os.Args[0], append(args, flags...)...)
				plugin.Env = append(os.Environ(), asProgram+"=1")
				plugin.Stdout, plugin.Stderr = io.Discard, os.Stderr
				begun := time.Now()
				if err := plugin.Run(); err != nil {
					b.Fatal(err)
				}
				most = max(most, plugin.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				b.ReportMetric(plugin.ProcessState.UserTime().Seconds(), "cpu-s")
				b.ReportMetric(time.Since(begun).Seconds(), "s")
			}
			b.ReportMetric(float64(most)/1024, "MB")
		})
	}
}
