// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/status"
)

// fake is an API server with nodes, whose daemons tell what the daemons' own code makes of a status.
type fake struct {
	nodes   []string
	daemons map[string]http.Handler // what answers for a node's pod of meshnetd; a node that is missing here has none
	// pod returns a page of pods as JSON, and whether there are more; nil is none. Pages are numbered from 0.
	pods      func(namespace string, page int) (items []string, more bool)
	objects   map[string]string // what is at a path
	forbidden string            // what may not be asked is a part of the path
	mesh      string            // the configuration in meshnetd's ConfigMap
	exec      http.HandlerFunc  // what answers where a program is to be run in a pod of meshnetd
}

// telling is a daemon that tells a status.
func telling(s status.Status) http.Handler {
	mux := http.NewServeMux()
	for _, page := range status.Remote(func() status.Status { return s }) {
		mux.Handle("GET "+page.Path, page.Handler)
	}
	return mux
}

// reasons is a sandbox of which only the explanation is asked.
type reasons struct {
	status.Live
	x status.Explanation
}

func (r reasons) Recall() status.Explanation { return r.x }

func sandbox(name, state string) status.Sandbox {
	return status.Sandbox{Namespace: "shop", Name: name, ID: "id-" + name, State: state, Reason: "injected", Mesh: "istio", Plan: "0123456789abcdef",
		Backend: "iptables-nft", Source: "nri", Live: reasons{x: status.Explanation{Namespace: "shop", Name: name, Mesh: "istio", Action: "redirect", Reason: "injected", Detail: "d"}}}
}

func healthy(sandboxes ...status.Sandbox) http.Handler {
	return telling(status.Status{Version: "v0.3.0", Backend: "iptables-nft", Connected: true, Synchronized: true,
		Runtime: &status.Runtime{Name: "containerd", Version: "v2.4.2", Tier: "guaranteed"}, Sandboxes: sandboxes})
}

const fakePods = "/api/v1/namespaces/meshnetd-system/pods"

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.forbidden != "" && strings.Contains(r.URL.Path, f.forbidden) {
		refuse(w, http.StatusForbidden, "Forbidden", "pods is forbidden: User \"ann\" cannot get it")
		return
	}
	if object, ok := f.objects[r.URL.Path]; ok {
		fmt.Fprint(w, object)
		return
	}
	page, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	namespace, kind := "", ""
	if parts := strings.Split(r.URL.Path, "/"); len(parts) == 6 {
		namespace, kind = parts[4], parts[5]
	}
	switch {
	case r.URL.Path == "/api/v1/nodes":
		f.page(w, page, len(f.nodes), func(i int) string { return fmt.Sprintf(`{"metadata":{"name":%q}}`, f.nodes[i]) })
	case r.URL.Path == fakePods:
		var running []string
		for _, node := range f.nodes {
			if f.daemons[node] != nil && (r.URL.Query().Get("fieldSelector") == "" || r.URL.Query().Get("fieldSelector") == "spec.nodeName="+node) {
				running = append(running, node)
			}
		}
		f.page(w, page, len(running), func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"meshnetd-%s","labels":{"app.kubernetes.io/instance":"meshnetd"}},"spec":{"nodeName":%q}}`, running[i], running[i])
		})
	case f.exec != nil && strings.HasSuffix(r.URL.Path, "/exec"):
		f.exec(w, r)
	case strings.HasPrefix(r.URL.Path, fakePods+"/meshnetd-"):
		node, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, fakePods+"/meshnetd-"), ":15990/proxy")
		daemon := f.daemons[node]
		if daemon == nil {
			refuse(w, http.StatusNotFound, "NotFound", "no such pod")
			return
		}
		asked := r.Clone(r.Context())
		asked.URL.Path = path
		daemon.ServeHTTP(w, asked)
	case r.URL.Path == "/api/v1/namespaces/meshnetd-system/configmaps/meshnetd":
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"meshnetd.toml": f.mesh}})
	case (r.URL.Path == "/api/v1/pods" || kind == "pods") && f.pods != nil:
		items, more := f.pods(namespace, page)
		next := ""
		if more {
			next = strconv.Itoa(page + 1)
		}
		fmt.Fprintf(w, `{"metadata":{"continue":%q},"items":[%s]}`, next, strings.Join(items, ","))
	default:
		refuse(w, http.StatusNotFound, "NotFound", "there is no "+r.URL.Path)
	}
}

// page writes one page of a list. Its items are made as they are asked for.
func (f *fake) page(w http.ResponseWriter, page, whole int, item func(int) string) {
	begin, end := page*pageSize, min((page+1)*pageSize, whole)
	var items []string
	for i := begin; i < end; i++ {
		items = append(items, item(i))
	}
	next := ""
	if end < whole {
		next = strconv.Itoa(page + 1)
	}
	fmt.Fprintf(w, `{"metadata":{"continue":%q},"items":[%s]}`, next, strings.Join(items, ","))
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":%q,"code":%d}`, reason, message, code)
}

// unreachable is what the API server says of a daemon where nobody listens.
var unreachable = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "error trying to reach service: dial tcp 10.0.0.1:15990: connect: connection refused")
})

// serve serves the cluster until the test ends, and returns the flags by which it is found.
func (f *fake) serve(t testing.TB) []string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("contexts: [{name: c, context: {}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", config)
	return []string{"--server", server.URL, "-n", "shop"}
}

// asked runs a command against the cluster.
func (f *fake) asked(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append(args, f.serve(t)...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// TestMain is the plugin itself where a test runs it as a program.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const asProgram = "KUBECTL_MESHNETD_AS_PROGRAM"
