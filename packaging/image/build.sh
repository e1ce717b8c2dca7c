#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the container image: build.sh DEST. DEST/layout is an OCI layout for amd64 and arm64, DEST/meshnetd.tar the
# same for `ctr images import`. The same commit gives the same digest, wherever it is built. VERSION is what
# `meshnetd version` says, from git by default; NAME is the image's name without its tag.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

[[ $# -eq 1 ]] || { echo "usage: build.sh DEST" >&2; exit 1; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$root"
go=${GO:-go}

VERSION=${VERSION:-$(git describe --tags --always --dirty)}
REVISION=${REVISION-$(git rev-parse HEAD)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git show -s --format=%ct HEAD)}
NAME=${NAME:-localhost/meshnetd/meshnetd}

# All that goes into a tag.
tag=${VERSION//[^A-Za-z0-9_.-]/-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for arch in amd64 arm64; do
	# Not what git says of the tree: the same sources without it are the same program.
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch $go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$VERSION" \
		-o "$work/$arch/meshnetd" ./cmd/meshnetd
	$go run -C packaging ./sbom "$work/$arch/meshnetd" >"$work/$arch/sbom.spdx.json"
done
$go run -C packaging ./image -programs "$work" -out "$dest" -name "$NAME:$tag" -version "$VERSION" -revision "$REVISION" \
	-created "$SOURCE_DATE_EPOCH"
