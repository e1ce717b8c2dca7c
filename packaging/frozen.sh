#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the directory of a meshnetd that is frozen, from which tests upgrade to this one: frozen.sh COMMIT. It holds
# the deb, of version v0.9.0, the image meshnetd.tar, of version and tag "frozen", and the chart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ $# -eq 1 ]] || { echo "usage: frozen.sh COMMIT" >&2; exit 1; }
commit=$1
# shellcheck source=cache.sh
source packaging/cache.sh

freeze() {
	local sources=$1/sources
	mkdir "$sources"
	git archive "$commit" | tar -x -C "$sources"
	export REVISION=$commit SOURCE_DATE_EPOCH=1700000000
	cp "$(packaging/tool.sh nfpm)" "$1/nfpm-v2.45.0" # where that commit looks for it
	VERSION=v0.9.0 NFPM_DIR=$1 "$sources/packaging/build.sh" "$1/package"
	VERSION=frozen "$sources/packaging/image/build.sh" "$1/image"
	mv "$1"/package/*.deb "$1/meshnetd.deb"
	mv "$1/image/meshnetd.tar" "$sources/packaging/helm/meshnetd" "$1"
	rm -rf "$sources" "$1/package" "$1/image" "$1/nfpm-v2.45.0"
}

if [[ ! -d $cache/frozen-$commit ]] && ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
	echo "frozen.sh: this clone has no commit $commit: it needs the whole history (git fetch --unshallow)" >&2
	exit 1
fi
cached "frozen-$commit" "one to two minutes" freeze
