#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the Kubernetes the tests run on: build.sh DEST.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -eq 1 ]] || { echo "usage: build.sh DEST" >&2; exit 1; }
# shellcheck source=../../packaging/cache.sh
source "$here/../../packaging/cache.sh"

build_kubernetes() {
	cd "$here/kubernetes"
	version=$(go list -mod=readonly -m -f '{{.Version}}' k8s.io/kubernetes)
	IFS=. read -r major minor _ <<<"${version#v}"
	# The programs compare their versions with each other, and kubectl with the server's.
	flags="-s -w"
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
	done
	for tool in $(go list -mod=readonly tool); do
		CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -ldflags "$flags" -o "$1/${tool##*/}" "$tool"
	done
}

built=$(cached "kubernetes-$(recipe "$here"/kubernetes/go.* "$here/build.sh")" "eight minutes" build_kubernetes)
lay "$built" "$1"
