# SPDX-License-Identifier: Apache-2.0

.DEFAULT_GOAL := help
SHELL := /bin/bash
BUILD := build
GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
export MESHNETD_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meshnetd

# Packages whose tests need a Debian, a Kubernetes or a kernel of their own are lanes by themselves.
PACKAGES = $(filter-out %/integration/kube %/integration/istio %/integration/systemd %/integration/kernels %/integration/userlands,$(shell $(GO) list ./...))
# The kubectl plugin, a module of its own; so is what builds packages, and tests them.
PLUGIN := kubectl-meshnetd
MODULES := $(PLUGIN) packaging
# Programs that tests upgrade from.
FROZEN := 0c2f8e7
# Packages tested at once: many wait more than they work.
BESIDE = $$(($$(nproc) + 1))
# Without symbols, which no test reads, the tests' programs are linked by two thirds of the work. Go's cache of results is not asked:
# it knows neither the kernel nor the programs that tests run, and nothing else would be drawn.
TESTS = -ldflags=-s -json -count=1 -vet=off
# Programs that tests and demo need, with their Debian packages; other targets add what they alone need.
PROGRAMS = iptables-nft:iptables iptables-legacy:iptables nft:nftables ip:iproute2 runc:runc nsenter:util-linux strace:strace gcc:gcc newuidmap:uidmap \
	journalctl:systemd busybox:busybox-static
# Reads the tests' results, and prints what a person wants to know of them.
REPORT = $(GO) run ./integration/report

.PHONY: help build package image release manifests docs demo check test test-all stress modules test-systemd test-kube test-istio test-kernels test-arm64 test-userlands test-containerds test-crio test-crun kube bench bench-kube faults critest soak differential mutation fuzz lint runtimes deps clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build meshnetd and the kubectl plugin, static, into build/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BUILD)/meshnetd ./cmd/meshnetd
	CGO_ENABLED=0 $(GO) build -C $(PLUGIN) -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(abspath $(BUILD))/kubectl-meshnetd .

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

check: modules lint ## vet, lint, and all tests that need no runtime, the long ones shorter, in minutes and without root
	for module in . $(MODULES); do $(GO) vet -C $$module ./... || exit; done
	GOOS=darwin $(GO) build -o /dev/null ./cmd/meshnetd && GOOS=darwin $(GO) build -C $(PLUGIN) -o /dev/null .
	@set -o pipefail; export MESHNETD_RUNTIMES=none; { failed=0; $(GO) test $(TESTS) -short -timeout 20m -p $(BESIDE) $(PACKAGES) || failed=1; \
		for module in $(MODULES); do $(GO) test -C $$module $(TESTS) -short ./... || failed=1; done; exit $$failed; } | $(REPORT) $(STRICT)

# Packages whose code several goroutines run at once are tested with the race detector, which makes the long enumerations
# of the others take three times as long. They mostly wait, so the others, which mostly work, run at the same time; cat waits for the
# former, and has their results. Packets and labs have the machine for themselves, a package at a time, and labs a daemon with the race
# detector.
RACING = ./cmd/... ./cri/... ./daemon ./daemon/fair ./daemon/netns ./daemon/cgroup ./daemon/recovered ./metrics/... ./nriplugin/... \
	./status/... ./systemd/... ./integration/lab ./integration/faults ./integration/nstest ./integration/standin
LABS = ./integration ./integration/e2e ./integration/faults/cmd ./integration/faults/attacks
ALONE = ./integration/packets $(LABS)
TEST = MESHNETD_REQUIRE=1 MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes $(GO) test $(TESTS) -timeout 40m

test: deps runtimes ## run all tests that need this machine and containerd; nothing may be skipped
	@set -o pipefail; { failed=0; racing=$$($(GO) list $(RACING)); alone=$$($(GO) list $(ALONE)); \
		rest=$$(printf '%s\n' $(PACKAGES) | grep -vxF -e "$$racing" -e "$$alone"); \
		{ { $(TEST) -p 2 -race $$racing || failed=1; $(GO) test -C $(PLUGIN) $(TESTS) -race ./... || failed=1; } >$(BUILD)/racing.json; exit $$failed; } | \
		{ $(TEST) -p 2 $$rest || failed=1; (cd packaging && $(TEST) ./...) || failed=1; cat - $(BUILD)/racing.json; exit $$failed; } || failed=1; \
		$(TEST) -p 1 $$alone || failed=1; exit $$failed; } | $(REPORT)
	@echo "NOT RUN: Debian with systemd (make test-systemd), Kubernetes (test-kube), Istio (test-istio), other kernels (test-kernels), CRI-O, which"; \
		echo "can be had from no module registry (test-crio), containerd 2.1 to 2.3 (test-containerds), and what else make help lists"

# What is run on more runtimes than those of `make test`: first connections, refusals, the gate and faults.
ON_EACH = FirstConnection|TrafficOfRealPods|BadAnnotation|DaemonRestarted|RuntimeRestarted|ProxyRefines|ValidationRefines|GatewayLoses|AuthorLoosens|DriftIs|LatePod|IstioValidationInAPod|VerifyRunning|Faults$$|FaultsBeside|OtherFaults|MoreFaults|Attacks
ON_CRIO = $(ON_EACH)|ProxyIdentity|Impostors|Setgid|Forbidden|NoContainerAfter|OutdatedRules|UserNamespaced|Explain|SeveralMeshes|HooksOfNeighbours|Packaging|HungDaemon|Doctor$$
CONTAINERDS = containerd-2.3 containerd-2.2 containerd-2.2.3 containerd-2.1
# What CRI-O is: crio is 1.36 or newer, crio-1.34 is 1.34 or 1.35.
CRIO ?= crio

test-containerds: deps ## run the tests of a runtime on containerd 2.1 to 2.3
	integration/runtimes/build.sh $(BUILD)/runtimes $(CONTAINERDS) cni
	set -o pipefail; { failed=0; for runtime in $(CONTAINERDS); do \
		MESHNETD_LAB=$$runtime $(TEST) -run '^Test($(ON_EACH))' -p 1 $(LABS) || failed=1; done; exit $$failed; } | $(REPORT)

test-crio: PROGRAMS += conmon:conmon skopeo:skopeo
test-crio: deps ## run the tests of a runtime on CRI-O: with crio and pinns of PATH, or of the directory MESHNETD_CRIO
	integration/runtimes/build.sh $(BUILD)/runtimes cni
	set -o pipefail; MESHNETD_LAB=$(CRIO) $(TEST) -run '^Test($(ON_CRIO)|PodsReach|HostNetwork|Restart|Close)' -p 1 $(LABS) ./integration/lab | $(REPORT)

test-crun: deps ## run the tests of a runtime on containerd 2.4 with crun, of Debian's sid, for runc
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	integration/debian/crun.sh $(abspath $(BUILD))/crun
	set -o pipefail; MESHNETD_LAB=containerd-2.4 MESHNETD_RUNC=$(abspath $(BUILD))/crun $(TEST) -run '^Test($(ON_EACH)|NoContainerAfter)' -p 1 $(LABS) | $(REPORT)

test-systemd: PROGRAMS += debootstrap:debootstrap systemd-nspawn:systemd-container
test-systemd: deps ## boot a Debian, and install, break, upgrade and remove the package in it
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	set -o pipefail; frozen=$$(packaging/frozen.sh $(FROZEN)) && MESHNETD_FROZEN=$$frozen MESHNETD_REQUIRE=1 \
		MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes $(GO) test -json -count=1 -timeout 20m ./integration/systemd | $(REPORT)

test-all: deps ## run all that .ci/run does not (or TARGETS="critest fuzz"), in hours, and write docs/test-all.md
	integration/all.sh

stress: deps runtimes ## run the tests again and again on a machine that has too much to do
	integration/stress.sh

# What runs on a Kubernetes needs: the runtime, Kubernetes, the image, and a frozen one, for upgrades.
KUBE = MESHNETD_RUNTIMES=$(abspath $(BUILD))/runtimes MESHNETD_KUBERNETES=$(abspath $(BUILD))/kubernetes MESHNETD_PLUGINS=$(abspath $(BUILD)) \
	MESHNETD_IMAGE=$(abspath $(BUILD))/image-kube/meshnetd.tar MESHNETD_FROZEN=$(MESHNETD_CACHE)/frozen-$(FROZEN)

kube: PROGRAMS += etcd:etcd-server
kube: deps
	integration/runtimes/build.sh $(BUILD)/runtimes containerd-2.4 cni
	integration/kube/build.sh $(BUILD)/kubernetes
	packaging/frozen.sh $(FROZEN) >/dev/null
	VERSION=kube GO="$(GO)" packaging/image/build.sh $(BUILD)/image-kube
	CGO_ENABLED=0 $(GO) build -C $(PLUGIN) -o $(abspath $(BUILD))/kubectl-meshnetd .

test-kube: kube ## run a Kubernetes, install the chart with the image, and show what tenants see
	set -o pipefail; $(KUBE) $(GO) test -json -count=1 -timeout 30m ./integration/kube | $(REPORT)

# ONLY=Istio/pods/strict runs that part of it, ONLY=. all, RECORD=1 writes the tables of docs/migrate.md. PODS is how many start at once.
# Of what fails the logs are left in build/istio-logs.
test-istio: PROGRAMS += pip3:python3-pip
test-istio: kube ## run a real Istio, istiod and Envoy, beside meshnetd, and read its access logs
	integration/istio/build.sh $(BUILD)/istio
	set -o pipefail; $(KUBE) MESHNETD_ISTIO=$(abspath $(BUILD))/istio MESHNETD_ISTIO_LOGS=$(abspath $(BUILD))/istio-logs \
		MESHNETD_ISTIO_PODS=$(or $(PODS),10) $(GO) test -json -count=1 -timeout 30m -run '$(if $(ONLY),Test$(ONLY),TestIstio|TestNode|TestFromIstioCNI|TestBackToIstioCNI|TestWithoutValidation)' \
		./integration/istio $(if $(RECORD),-record) | $(REPORT)

# ONLY=5.10 boots those whose names begin so; SHORT=1 leaves out what takes minutes; RECORD=integration/kernels/recorded.md writes
# what docs/compatibility.md shows.
test-kernels: PROGRAMS += qemu-system-x86_64:qemu-system-x86 qemu-system-aarch64:qemu-system-arm depmod:kmod
test-kernels: deps ## boot Debian's kernels, whole and with modules left out, and run tests and pods in them
	set -o pipefail; $(GO) test -json -count=1 -timeout 180m $(if $(SHORT),-short) -run '^TestKernels$$/^$(ONLY)' ./integration/kernels \
		$(if $(RECORD),-args -record $(abspath $(RECORD))) | $(REPORT)

# Programs for arm64, emulated; `make test-kernels ONLY=arm64` emulates a machine, and runs in it what needs its kernel.
test-arm64: PROGRAMS += qemu-aarch64-static:qemu-user-static jq:jq
test-arm64: deps build image ## run the image's half for arm64, and what is pure, emulated: in an hour or more
	integration/arm64.sh $(BUILD)/image/layout $(BUILD)/meshnetd
	set -o pipefail; GOARCH=arm64 CGO_ENABLED=0 $(GO) test -json -short -count=1 -timeout 120m -exec qemu-aarch64-static \
		./rules/... ./config ./manifest ./explain | $(REPORT)

test-userlands: PROGRAMS += rpm:rpm
test-userlands: deps ## have iptables and nft of four Debian releases read, save and restore the rules
	set -o pipefail; MESHNETD_REQUIRE=1 $(GO) test -json -count=1 -timeout 20m ./integration/userlands | $(REPORT)

# ONLY=hook,packet runs these sections; without it all are run.
bench: PROGRAMS += pip3:python3-pip
bench: deps runtimes build ## measure what meshnetd costs a pod, a packet and the node, as ratios of one run (PLOTS=DIR draws them)
	integration/istio/build.sh $(BUILD)/istio
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) test -c -o $(BUILD)/nftables.test ./daemon/nftables
	$(GO) build -o $(BUILD)/bench ./integration/bench
	@exec $(BUILD)/bench -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin \
		-inside $(BUILD)/nftables.test -pilot-agent $(BUILD)/istio/istio/pilot-agent -plots "$(PLOTS)" -only "$(ONLY)"

# ROUNDS=2 measures 6 pods of each way instead of 18.
bench-kube: PROGRAMS += pip3:python3-pip
bench-kube: kube ## measure pods of a real Istio from their creation to Ready, by meshnetd, istio-cni and istio-init
	integration/istio/build.sh $(BUILD)/istio
	$(KUBE) MESHNETD_ISTIO=$(abspath $(BUILD))/istio MESHNETD_NUMBERS=$(abspath $(BUILD))/numbers.md MESHNETD_ROUNDS=$(ROUNDS) \
		$(GO) test -count=1 -timeout 30m ./integration/istio -run TestNumbers
	@cat $(BUILD)/numbers.md

faults: deps runtimes build ## break everything meshnetd needs, and print what went around the mesh
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/faults ./integration/faults/cmd
	@exec $(BUILD)/faults -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin

critest: deps runtimes build ## run Kubernetes' contract suite for NRI, and compare it with a node without meshnetd
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/critest ./integration/critest
	suite=$$(packaging/tool.sh critest) && exec $(BUILD)/critest -critest $$suite -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin

soak: deps runtimes build ## start and stop PODS pods (2000) while meshnetd is killed at random moments
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/standin ./integration/standin
	$(GO) build -o $(BUILD)/faults ./integration/faults/cmd
	@exec $(BUILD)/faults -soak $(or $(PODS),2000) -runtimes $(BUILD)/runtimes -meshnetd $(BUILD)/meshnetd -standin $(BUILD)/standin

PAIRS ?= 100000

differential: deps ## send PAIRS random packets through random plans, and compare the kernel with the tracer
	MESHNETD_REQUIRE=1 MESHNETD_EVERY_PAIR=1 MESHNETD_PAIRS=$(PAIRS) MESHNETD_DAMAGED=$(PAIRS) $(GO) test -v -count=1 -timeout 60m ./integration/differential
	MESHNETD_REQUIRE=1 MESHNETD_EVERY_PAIR=1 $(GO) test -v -count=1 -timeout 60m -run TestConformanceAfterAnyOther ./integration/packets

mutation: ## break every rule of every plan, and print how many of the breaks some packet notices
	$(GO) run ./internal/mutation
	MESHNETD_MUTANTS=all $(GO) test -count=1 -run TestEffectOfMutants ./internal/mutation
	MESHNETD_EVERY_ROW=1 $(GO) test -v -count=1 -timeout 60m ./daemon/lifecycle

fuzz: ## run every fuzz test for a minute
	@grep -rEo '^func Fuzz[A-Za-z]+' --include='*_test.go' . | sed 's/:func /:/' | while IFS=: read -r file name; do \
		echo "$$name"; $(GO) test ./$$(dirname $$file) -run '^$$' -fuzz "^$$name$$" -fuzztime 60s -fuzzminimizetime 10x || exit 1; done

lint: ## run golangci-lint, which also holds the import arrows, and check the workflow
	linter=$$(packaging/tool.sh golangci-lint) && for module in . $(MODULES); do (cd $$module && $$linter run --allow-parallel-runners) || exit; done
	$$(packaging/tool.sh actionlint)

runtimes: ## build the pinned containerd 2.4 and 1.7, CNI plugins and Consul's library into build/
	integration/runtimes/build.sh $(BUILD)/runtimes

modules:
	@echo "downloading the modules that are missing (at most a minute or two)"; for module in . $(MODULES); do $(GO) mod download -C $$module || exit; done

deps: modules ## install the Debian packages that tests and demo need
	@missing=; for program in $(PROGRAMS); do \
		PATH=$$PATH:/usr/sbin:/sbin command -v "$${program%%:*}" >/dev/null || missing="$$missing $${program##*:}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }
	@if [ -n "$$SUDO_USER" ] && ! grep -q "^$$SUDO_USER:" /etc/subuid; then \
		usermod --add-subuids 165536-231071 --add-subgids 165536-231071 "$$SUDO_USER"; fi

clean: ## remove build/
	rm -rf $(BUILD)
