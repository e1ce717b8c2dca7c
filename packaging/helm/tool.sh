#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the pinned helm or another tool, once, and prints its path: tool.sh DEST [helm|kubeconform].
set -euo pipefail

case ${2:-helm} in
helm) package=helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
kubeconform) package=github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 ;;
*) package= ;;
esac
[[ $# -ge 1 && -n $package ]] || { echo "usage: tool.sh DEST [helm|kubeconform]" >&2; exit 1; }
name=${package%@*}
name=${name##*/}
mkdir -p "$1"
tool=$(cd "$1" && pwd)/$name-${package##*@}
if [[ ! -x $tool ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	# Outside of this module, which does not need what the tools need.
	(cd "$work" && GOBIN=$work GOFLAGS=-mod=mod ${GO:-go} install -ldflags "-s -w" "$package")
	mv "$work/$name" "$tool"
fi
echo "$tool"
