#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the container runtimes, and what else of others, the tests run against: build.sh DEST [NAME...]
# NAME is a directory beside this file; by default those that `make test` needs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# shellcheck source=../../packaging/cache.sh
source "$here/../../packaging/cache.sh"

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

build_set() {
	local dir=$1 out=$2 tool tools
	tools=$(cd "$dir" && go list -mod=readonly tool)
	for tool in $tools; do
		build_program "$dir" "$tool" "$out/${tool##*/}"
	done
}

build_program() {
	local dir=$1 tool=$2 out=$3 module version tags="no_btrfs,no_devmapper,no_zfs"
	module=$(cd "$dir" && go list -mod=readonly -f '{{.Module.Path}}' "$tool")
	version=$(cd "$dir" && go list -mod=readonly -f '{{.Module.Version}}' "$tool")
	# gRPC is compiled out of the shim, as the released ones are.
	case ${tool##*/} in containerd-shim-*) tags=no_grpc ;; esac
	# NRI plugins are told this version and may decide by it, so it must look
	# like the one of a release.
	(cd "$dir" && CGO_ENABLED=0 go build -mod=readonly -trimpath -buildvcs=false -tags "$tags" \
		-ldflags "-s -w -X $module/version.Version=$version" -o "$out" "$tool")
}

[[ $# -ge 1 ]] || fail "usage: build.sh DEST [NAME...], of $(cd "$here" && echo */)"
command -v go >/dev/null || fail "go is not in PATH"
mkdir -p "$1"
dest=$(cd "$1" && pwd)
shift
[[ $# -gt 0 ]] || set -- containerd-2.4 containerd-1.7 cni consul-0.18 consul-0.19
for name in "$@"; do
	dir=$here/$name
	[[ -f $dir/go.mod ]] || fail "unknown set '$name' (want $(cd "$here" && echo */))"
	# Consul's library asks for a later Go than go.mod does: that one, which the module proxy has, builds it.
	toolchain=${GOTOOLCHAIN:-}
	case $name in consul-*) toolchain=go$(awk '$1 == "go" {print $2}' "$dir/go.mod") ;; esac
	built=$(GOTOOLCHAIN=$toolchain cached "$name-$(recipe "$dir"/* "${BASH_SOURCE[0]}")" "one to three minutes" build_set "$dir")
	lay "$built" "$dest/$name"
done
