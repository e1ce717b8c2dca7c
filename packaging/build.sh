#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the deb and the rpm: build.sh DEST. The same commit gives the same bytes, wherever it is built.
# VERSION is what `meshnetd version` says, from git by default.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

[[ $# -eq 1 ]] || { echo "usage: build.sh DEST" >&2; exit 1; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1"
dest=$(cd "$1" && pwd)
cd "$root"
go=${GO:-go}

VERSION=${VERSION:-$(git describe --tags --always --dirty)}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git show -s --format=%ct HEAD)}
export ARCH=$($go env GOARCH)

# v1.2.3 is 1.2.3, v1.2.0-rc1 is 1.2.0~rc1, five commits after v1.2.3 are 1.2.3+5.gHASH. Without a tag the time puts
# the packages in order.
if [[ $VERSION =~ ^v?([0-9]+\.[0-9]+\.[0-9]+)(.*)$ ]]; then
	more=$(sed -E 's/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-dirty$/.dirty/; s/^-/~/; s/-/./g' <<<"${BASH_REMATCH[2]}")
	PACKAGE_VERSION=${BASH_REMATCH[1]}$more
else
	PACKAGE_VERSION=0.0.0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).g${VERSION//-/.}
fi
export PACKAGE_VERSION

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/stage
mkdir -p "$stage"/{catalog,doc,examples,share}

CGO_ENABLED=0 $go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o "$stage/meshnetd" ./cmd/meshnetd
CGO_ENABLED=0 $go build -C kubectl-meshnetd -trimpath -ldflags "-s -w -X main.version=$VERSION" -o "$stage/kubectl-meshnetd" .
$go run -tags pages ./cmd/meshnetd pages "$stage/pages"
$go run -C kubectl-meshnetd -tags pages . pages "$stage/pages/man"
install -m 755 kubectl-meshnetd/kubectl_complete-meshnetd "$stage/"
$go run -C packaging ./sbom "$stage/meshnetd" >"$stage/doc/sbom.spdx.json"
$go run -C packaging ./sbom "$stage/kubectl-meshnetd" >"$stage/doc/kubectl-meshnetd.spdx.json"
gzip -9n "$stage"/pages/man/*

install -m 644 config/reference.toml "$stage/meshnetd.toml"
install -m 644 systemd/meshnetd.service "$stage/"
install -m 644 systemd/*.catalog "$stage/catalog/"
install -m 644 packaging/README.md "$stage/share/"
for dir in containerd crio istio admission taint systemd grafana prometheus; do
	mkdir "$stage/share/$dir"
	install -m 644 "packaging/$dir"/* "$stage/share/$dir/"
done
install -m 644 examples/* "$stage/examples/"
gzip -9n <CHANGELOG.md >"$stage/doc/changelog.gz"

# What the programs are made of, and under which terms.
{
	printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: meshnetd\n'
	printf 'Source: https://github.com/meshnetd/meshnetd\n\nFiles: *\nCopyright: the meshnetd authors\nLicense: Apache-2.0\n'
	printf ' On Debian systems the text is in /usr/share/common-licenses/Apache-2.0. The modules that are linked into\n'
	printf ' the programs, their versions and their licences are in *.spdx.json and third-party.gz.\n'
} >"$stage/doc/copyright"
licences() { # of what a program is made of: PROGRAM, and the directory of its module
	$go version -m "$1" | awk '$1 == "dep" && $2 != "github.com/meshnetd/meshnetd" {print $2}' | while read -r module; do
		dir=$($go list -C "$2" -m -f '{{.Dir}}' "$module")
		find "$dir" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'notice*' -o -iname 'copying*' \) | sort | while read -r file; do
			printf '\n==== %s: %s\n\n' "$module" "${file##*/}"
			cat "$file"
		done
	done
}
{ licences "$stage/meshnetd" . && licences "$stage/kubectl-meshnetd" kubectl-meshnetd; } | gzip -9n >"$stage/doc/third-party.gz"

cp packaging/nfpm.yaml "$work/"
cp -r packaging/deb packaging/rpm "$work/"
chmod 755 "$work"/deb/* "$work"/rpm/*
find "$work" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

tool=$("$root/packaging/tool.sh" nfpm)
rm -f "$dest"/*.deb "$dest"/*.rpm
for format in deb rpm; do
	(cd "$work" && "$tool" package --config nfpm.yaml --packager "$format" --target "$dest/" >/dev/null)
done
install -m 755 "$stage/meshnetd" "$stage/kubectl-meshnetd" "$dest/"
install -m 644 "$stage"/doc/*.spdx.json "$dest/"
(cd "$dest" && sha256sum meshnetd kubectl-meshnetd ./*.spdx.json ./*.deb ./*.rpm)
