#!/bin/sh
# Put the deployed runtime's Python into .tools/python/, by uv, which is installed as requirements-dev.txt pins it: by its
# hash. uv knows the hashes of the Pythons that it fetches.
set -eu
cd "$(dirname "$0")/../.."
pinned=$(mktemp)
sed -n '/^uv==/,/[^\\]$/p' requirements-dev.txt >"$pinned"
pip install --quiet --root-user-action=ignore --disable-pip-version-check --require-hashes --target .tools/uv --requirement "$pinned"
.tools/uv/bin/uv python install --no-bin --install-dir .tools/python "$(sed 's/^python\([0-9]\)/\1./' infra/runtime.txt)"
