// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// Started makes the pod and returns how long it took until the API server said that it is ready. It asks the API server itself: the
// start of a kubectl would be a good part of what is measured.
func (s *Steps) Started(t *testing.T, manifest string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	var pod map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &pod); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		Metadata struct{ Namespace, Name, ResourceVersion string }
	}
	if err := yaml.Unmarshal([]byte(manifest), &made); err != nil {
		t.Fatal(err)
	}
	pods := "/api/v1/namespaces/" + made.Metadata.Namespace + "/pods"
	begun := time.Now()
	created := s.request(ctx, t, http.MethodPost, pods, body)
	defer created.Close()
	if err := json.NewDecoder(created).Decode(&made); err != nil {
		t.Fatal(err)
	}
	events := s.request(ctx, t, http.MethodGet, pods+"?watch=1&fieldSelector=metadata.name="+made.Metadata.Name+
		"&resourceVersion="+made.Metadata.ResourceVersion, nil)
	defer events.Close()
	for decoder := json.NewDecoder(events); ; {
		var event struct {
			Type   string
			Object struct {
				Status struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := decoder.Decode(&event); err != nil || event.Type == "ERROR" {
			t.Fatalf("%s is not ready: %s, %v", made.Metadata.Name, event.Type, err)
		}
		for _, condition := range event.Object.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" {
				return time.Since(begun)
			}
		}
	}
}

// request asks the API server.
func (s *Steps) request(ctx context.Context, t *testing.T, method, path string, body []byte) io.ReadCloser {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, s.C.api+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.C.token)
	request.Header.Set("Content-Type", "application/json")
	if s.client == nil {
		s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		t.Cleanup(s.client.CloseIdleConnections)
	}
	answer, err := s.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		said, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		t.Fatalf("%s %s: %s: %s", method, path, answer.Status, said)
	}
	return answer.Body
}
