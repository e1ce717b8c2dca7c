#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds what a release has: release.sh DEST. `release.sh version` prints which one, and `release.sh notes` what is new in
# it: the first section of CHANGELOG.md that is not "Unreleased". The same commit gives the same bytes.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

[[ $# -eq 1 ]] || { echo "usage: release.sh DEST | version | notes" >&2; exit 1; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

version=$(sed -nE 's/^## ([0-9]+\.[0-9]+\.[0-9]+[^ ]*).*/\1/p' "$root/CHANGELOG.md" | head -n 1)
[[ -n $version ]] || { echo "release.sh: CHANGELOG.md has no version" >&2; exit 1; }
notes() { awk -v version="$version" '/^## / {on = $2 == version; next} on' "$root/CHANGELOG.md" | sed -e '/./,$!d'; }
case $1 in
version) echo "$version"; exit ;;
notes) notes; exit ;;
esac

rm -rf "$1"
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$root"
export GO=${GO:-go} VERSION=v$version
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git show -s --format=%ct HEAD)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

NFPM_DIR=${NFPM_DIR:-$root/build} packaging/build.sh "$dest" >/dev/null
for program in meshnetd kubectl-meshnetd; do mv "$dest/$program" "$dest/$program-linux-$($GO env GOARCH)"; done
packaging/krew.sh "$dest"
packaging/image/build.sh "$work/image" >/dev/null
mv "$work/image/meshnetd.tar" "$dest/meshnetd-image-$version.tar"

cp -r packaging/helm/meshnetd "$work/chart"
sed -i -E "s/^version: .*/version: $version/; s/^appVersion: .*/appVersion: \"$VERSION\"/" "$work/chart/Chart.yaml"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --transform='s,^chart,meshnetd,' -C "$work" -c chart |
	gzip -9n >"$dest/meshnetd-chart-$version.tgz"
install -m 644 packaging/kubernetes/meshnetd.yaml "$dest/meshnetd.yaml"
notes >"$dest/NOTES.md"
(cd "$dest" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" . && cat SHA256SUMS)
