# SPDX-License-Identifier: Apache-2.0

.DEFAULT_GOAL := help
SHELL := /bin/bash
BUILD := build
GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.7
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0

.PHONY: help build package image release manifests docs demo test test-unit test-systemd test-kube kube bench bench-kube faults soak differential mutation fuzz lint runtimes deps clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build meshnetd, static, into build/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BUILD)/meshnetd ./cmd/meshnetd

package: ## build the deb and the rpm, into build/package
	VERSION="$(VERSION)" GO="$(GO)" packaging/build.sh $(BUILD)/package

image: ## build the container image for amd64 and arm64, into build/image
	VERSION="$(VERSION)" GO="$(GO)" packaging/image/build.sh $(BUILD)/image

release: ## build what a release has, into build/release; the version is CHANGELOG.md's
	GO="$(GO)" packaging/release.sh $(BUILD)/release

manifests: ## render the plain Kubernetes manifests from the Helm chart
	rendered=$$(packaging/helm/render.sh) && echo "$$rendered" >packaging/kubernetes/meshnetd.yaml

docs: ## write the pages that come from the code: commands, configuration, compatibility
	$(GO) test ./docs ./cmd/meshnetd -run 'Test[A-Za-z]*Page$$' -update

# RECORD=docs writes the pictures of this run.
demo: deps build ## show what meshnetd is for, on a real containerd, in less than a minute
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/demo ./integration/demo
	@exec $(BUILD)/demo -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin $(if $(RECORD),-record $(RECORD))

test: deps runtimes ## run all tests: unit, kernel, real containerd; nothing may be skipped
	$(GO) vet ./...
	GOOS=darwin $(GO) build -o /dev/null ./cmd/meshnetd
	MESHNETD_REQUIRE=1 MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes $(GO) test -race -count=1 -timeout 40m ./...

test-unit: ## run the tests that need neither root nor a runtime
	$(GO) test ./rules/... ./config ./manifest ./cmd/... ./cri ./status ./packaging ./packaging/sbom ./systemd/... ./docs

test-systemd: deps ## boot a Debian, and install, break, upgrade and remove the package in it
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	MESHNETD_REQUIRE=1 MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes $(GO) test -count=1 -v -timeout 20m ./integration/systemd

# What runs on a Kubernetes needs: the runtime, Kubernetes, and two builds of the image, for upgrades.
KUBE = MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes MESHNETD_KUBERNETES=$(abspath $(BUILD))/kubernetes \
	MESHNETD_IMAGE=$(abspath $(BUILD))/image-kube/meshnetd.tar MESHNETD_NEXT_IMAGE=$(abspath $(BUILD))/image-next/meshnetd.tar

kube: deps
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	integration/kube/build.sh $(BUILD)/kubernetes
	for version in kube next; do VERSION=$$version GO="$(GO)" packaging/image/build.sh $(BUILD)/image-$$version || exit 1; done

test-kube: kube ## run a Kubernetes, install the chart with the image, and show what tenants see
	$(KUBE) $(GO) test -count=1 -v -timeout 30m ./integration/kube

# ONLY=hook,packet runs these sections; without it all are run.
bench: deps runtimes build ## measure what meshnetd costs a pod, a packet and the node, as ratios of one run
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) test -c -o $(BUILD)/nftables.test ./daemon/nftables
	$(GO) build -o $(BUILD)/bench ./integration/bench
	@exec $(BUILD)/bench -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin \
		-inside $(BUILD)/nftables.test -only "$(ONLY)"

bench-kube: kube ## measure pods from their creation to Running, with meshnetd, without, and with an init container
	$(KUBE) MESHNETD_NUMBERS=$(abspath $(BUILD))/numbers.txt $(GO) test -count=1 -timeout 30m ./integration/kube -run TestNumbers
	@cat $(BUILD)/numbers.txt

faults: deps runtimes build ## break everything meshnetd needs, and print what went around the mesh
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/faults ./integration/faults/cmd
	@exec $(BUILD)/faults -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin

PODS ?= 2000

soak: deps runtimes build ## start and stop PODS pods while meshnetd is killed at random moments
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/faults ./integration/faults/cmd
	@exec $(BUILD)/faults -soak $(PODS) -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin

PAIRS ?= 100000

differential: deps ## send PAIRS random packets through random plans, and compare the kernel with the tracer
	MESHNETD_REQUIRE=1 MESHNETD_PAIRS=$(PAIRS) $(GO) test -v -count=1 -timeout 60m ./integration/differential

mutation: ## break every rule of every plan, and print how many of the breaks some packet notices
	$(GO) run ./rules/istio/mutation

fuzz: ## run every fuzz test for a minute
	@grep -rEo '^func Fuzz[A-Za-z]+' --include='*_test.go' . | sed 's/:func /:/' | while IFS=: read -r file name; do \
		echo "$$name"; $(GO) test ./$$(dirname $$file) -run '^$$' -fuzz "^$$name$$" -fuzztime 60s -fuzzminimizetime 10x || exit 1; done

lint: ## run golangci-lint, which also holds the import arrows, and check the workflow
	$(GO) run $(GOLANGCI_LINT) run
	$(GO) run $(ACTIONLINT)

runtimes: ## build the pinned containerd 2.4 and 1.7, CNI plugins and Consul's library into build/
	integration/runtimes/build.sh $(BUILD)/runtimes

deps: ## install the Debian packages that tests and demo need
	@missing=; for program in iptables-nft:iptables iptables-legacy:iptables nft:nftables ip:iproute2 runc:runc nsenter:util-linux gcc:gcc \
		debootstrap:debootstrap systemd-nspawn:systemd-container etcd:etcd-server; do \
		PATH=$$PATH:/usr/sbin:/sbin command -v "$${program%%:*}" >/dev/null || missing="$$missing $${program##*:}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

clean: ## remove build/
	rm -rf $(BUILD)
