#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the pinned helm, once, and prints its path: tool.sh DEST.
set -euo pipefail

helm=helm.sh/helm/v3/cmd/helm@v3.22.0

[[ $# -eq 1 ]] || { echo "usage: tool.sh DEST" >&2; exit 1; }
mkdir -p "$1"
tool=$(cd "$1" && pwd)/helm-${helm##*@}
if [[ ! -x $tool ]]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	# Outside of this module, which does not need what helm needs.
	(cd "$work" && GOBIN=$work GOFLAGS=-mod=mod ${GO:-go} install -ldflags "-s -w" "$helm")
	mv "$work/helm" "$tool"
fi
echo "$tool"
