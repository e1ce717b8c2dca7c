#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the kubectl plugin for krew: krew.sh DEST. Each platform gets an archive, and meshnetd-krew.yaml, krew's manifest, names
# them by their sums. RELEASES is the address below which whoever publishes puts the archives.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

[[ $# -eq 1 && -n ${VERSION:-} ]] || { echo "usage: VERSION=v1.2.3 krew.sh DEST" >&2; exit 1; }
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

manifest=$dest/meshnetd-krew.yaml
sed -e "s|VERSION|$VERSION|" packaging/krew.yaml >"$manifest"
cp LICENSE "$stage/"
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
	CGO_ENABLED=0 GOOS=${platform%-*} GOARCH=${platform#*-} ${GO:-go} build -C kubectl-meshnetd -trimpath \
		-ldflags "-s -w -X main.version=$VERSION" -o "$stage/kubectl-meshnetd" .
	archive=kubectl-meshnetd-$platform.tar.gz
	tar --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" --owner=0 --group=0 --numeric-owner -C "$stage" -c LICENSE kubectl-meshnetd | gzip -9n >"$dest/$archive"
	cat >>"$manifest" <<-END
	    - selector: {matchLabels: {os: ${platform%-*}, arch: ${platform#*-}}}
	      uri: ${RELEASES:-RELEASES}/$archive
	      sha256: $(sha256sum <"$dest/$archive" | cut -d' ' -f1)
	      bin: kubectl-meshnetd
	END
done
