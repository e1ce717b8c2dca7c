#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the path of a pinned program of others, which it builds first where that was not done before:
# tool.sh helm|kubeconform|nfpm|golangci-lint|actionlint|critest. MESHNETD_CACHE is where they lie.
set -euo pipefail

case ${1:-} in
helm) package=helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
kubeconform) package=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 ;;
# The last one without a module that is not to be had from every Go proxy.
nfpm) package=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0 ;;
golangci-lint) package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0 ;;
actionlint) package=github.com/rhysd/actionlint/cmd/actionlint@v1.7.7 ;;
critest) package=sigs.k8s.io/cri-tools@v1.37.0 ;;
*) echo "usage: tool.sh helm|kubeconform|nfpm|golangci-lint|actionlint|critest" >&2; exit 1 ;;
esac
# shellcheck source=cache.sh
source "$(dirname "${BASH_SOURCE[0]}")/cache.sh"

install_tool() {
	# Outside of this module, which does not need what the tools need.
	case $package in
	*/cri-tools@*) # a program of tests, which install does not build
		cd "$1" && ${GO:-go} mod download "$package" && cd "$(${GO:-go} list -m -f '{{.Dir}}' "$package")" &&
			${GO:-go} test -c -ldflags "-s -w" -o "$1/critest" ./cmd/critest ;;
	*) cd "$1" && GOBIN=$1 GOFLAGS=-mod=mod ${GO:-go} install -ldflags "-s -w" "$package" ;;
	esac
}

dir=$(cached "$1-${package##*@}" "one to three minutes" install_tool)
echo "$dir/$1"
