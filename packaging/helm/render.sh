#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Prints the plain manifests, as packaging/kubernetes has them: render.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
helm=$("$here/../tool.sh" helm)
cat <<'END'
# SPDX-License-Identifier: Apache-2.0
#
# Rendered from packaging/helm/meshnetd by `make manifests`, for clusters without Helm: kubectl apply -f meshnetd.yaml.
# Put your image, and your configuration, in their places first. A ConfigMap that changes needs a restart:
# kubectl -n meshnetd-system rollout restart ds/meshnetd
END
"$helm" template meshnetd "$here/meshnetd" --namespace meshnetd-system --kube-version 1.36.0 --set namespace.create=true
