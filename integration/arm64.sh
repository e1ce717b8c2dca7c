#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Starts the half for arm64 of an image, emulated and with nothing but the image's own files: arm64.sh LAYOUT MESHNETD.
# It has to be of the version of the program for this machine, and to plan a pod as that one does.
set -euo pipefail

[[ $# -eq 2 ]] || { echo "usage: arm64.sh LAYOUT MESHNETD" >&2; exit 1; }
layout=$1 native=$2
pod=$(dirname "${BASH_SOURCE[0]}")/../examples/web.yaml
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

blob() { # DIGEST
	echo "$layout/blobs/${1/://}"
}

index=$(blob "$(jq -r '.manifests[0].digest' "$layout/index.json")")
manifest=$(blob "$(jq -r '.manifests[] | select(.platform.architecture == "arm64").digest' "$index")")
for layer in $(jq -r '.layers[].digest' "$manifest"); do
	tar -xf "$(blob "$layer")" -C "$root"
done
entrypoint=$(jq -r '.config.Entrypoint[0]' "$(blob "$(jq -r .config.digest "$manifest")")")
install "$(command -v qemu-aarch64-static)" "$root/emulate"

meshnetd() {
	chroot "$root" /emulate "$entrypoint" "$@"
}

diff <("$native" version | sed s/amd64/arm64/) <(meshnetd version)
diff <("$native" plan -f - <"$pod") <(meshnetd plan -f - <"$pod")
echo "arm64: $(meshnetd version), which plans $(basename "$pod") as the program for this machine does"
