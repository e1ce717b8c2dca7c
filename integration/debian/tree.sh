#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints a directory with packages of a Debian release and all that they depend on, unpacked and not set up:
# tree.sh SUITE[:ARCHITECTURE] PACKAGE... What a suite had on the day it was fetched stays in the cache; remove it there to have the newest.
set -euo pipefail

[[ $# -ge 2 ]] || { echo "usage: tree.sh SUITE[:ARCHITECTURE] PACKAGE..." >&2; exit 1; }
suite=${1%:*} architecture=amd64 name=debian-${1/:/-}
[[ $1 != *:* ]] || architecture=${1#*:}
shift
packages=("$@")
# shellcheck source=../../packaging/cache.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../packaging/cache.sh"

# By an apt that neither reads nor changes what this machine has installed.
fetch() {
	local tree=$1 apt archive
	apt=$tree/.apt
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >"$apt/sources.list"
	: >"$apt/status"
	set -- -qq -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$apt" \
		-o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
		-o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root \
		-o Acquire::Check-Valid-Until=false -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
	apt-get "$@" update
	apt-get "$@" install --download-only --yes --no-install-recommends "${packages[@]}"
	for archive in "$apt"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$tree" --keep-directory-symlink \
			--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
		basename "$archive" .deb >>"$tree/.packages"
	done
	rm -r "$apt"
}

cached "$name-$(printf '%s ' "$@" | sha256sum | cut -c1-8)" "a minute" fetch
