#!/usr/bin/env bash
# Checks deploy/kubernetes without a cluster: against the published schemas of Kubernetes (PyPI's kubernetes-validate, strict: an
# unknown field is an error), names that must meet, what the pods may do, and the configuration with ground-station itself.
#
# PERIGEE_BIN_DIR names a folder with ground-station; without it the release binary of this tree is used.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$root/tests/kubernetes
venv=$here/.venv
if [ ! -f "$venv/stamp" ] || ! cmp -s "$venv/stamp" "$here/requirements.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/stamp"
fi
exec "$venv/bin/python" "$here/check.py" "$(realpath "${PERIGEE_BIN_DIR:-$root/target/release}")/ground-station" "$root"/deploy/kubernetes/*.yaml
