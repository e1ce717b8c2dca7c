// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/meshnetd/meshnetd/integration/image"
)

// A pull finds the manifest under any name, and from it all else, with its digest.
func TestRegistry(t *testing.T) {
	layer := image.NewLayer()
	layer.File("bin/busybox", []byte("program"))
	packed, err := layer.Image()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry{packed})
	defer server.Close()
	get := func(path string) (int, []byte) {
		answer, err := http.Get(server.URL + "/v2/any/name/" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, body
	}
	var manifest struct {
		Config image.Blob
		Layers []image.Blob
	}
	_, text := get("manifests/1")
	if err := json.Unmarshal(text, &manifest); err != nil || len(manifest.Layers) != 1 {
		t.Fatalf("manifest %s, %v", text, err)
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if _, body := get("blobs/" + blob.Digest); fmt.Sprintf("sha256:%x", sha256.Sum256(body)) != blob.Digest || len(body) != blob.Size {
			t.Errorf("%s: %d bytes, %q", blob.Digest, len(body), body)
		}
	}
	if status, _ := get("blobs/sha256:0"); status != http.StatusNotFound {
		t.Errorf("a blob that there is not: status %d", status)
	}
}
