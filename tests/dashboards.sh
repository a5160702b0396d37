#!/usr/bin/env bash
# Proves the dashboards and alert rules: Grafana's schema, promtool, and a real Prometheus that watches real agents and ground
# stations through a simulated day with failures in it (about 4 minutes) and is then asked every query.
#
#   tests/dashboards.sh                build what is missing or out of date, then check
#   tests/dashboards.sh --show         and print what each query found
#   tests/dashboards.sh --keep         and keep the day's files
#
# Needs Linux, Go 1.26, Python 3.10 and a C compiler; no container and no Grafana, which is in no registry of packages.
# PERIGEE_BIN_DIR names a folder with space-agent and ground-station; without it the release binaries are built here.
# PYTHON names the interpreter (python3), CC the compiler (cc). The first build takes about 6 minutes on two cores.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$root/tests/dashboards
python=${PYTHON:-python3}

fail() {
  printf 'dashboards: error: %s\n' "$*" >&2
  exit 1
}

command -v "${CC:-cc}" >/dev/null || fail "no C compiler: install one (Debian: apt-get install gcc), or name it with CC"

[ -z "${PERIGEE_BIN_DIR:-}" ] || PERIGEE_BIN_DIR=$(realpath -m "$PERIGEE_BIN_DIR")
"$root/tests/backends.sh" --build-only prometheus promtool
mkdir -p "$here/bin"
go -C "$here/schema" build -mod=readonly -trimpath -o "$here/bin/schema" . || fail "the check of Grafana's schema does not build"
"${CC:-cc}" -shared -fPIC -O1 -o "$here/bin/clock.so" "$here/clock.c" || fail "clock.c does not compile"

if [ -z "${PERIGEE_BIN_DIR:-}" ]; then
  (cd "$root" && cargo build --release -p space-agent -p ground-station)
  PERIGEE_BIN_DIR=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")/release
fi
export PERIGEE_BIN_DIR
for program in space-agent ground-station; do
  [ -x "$PERIGEE_BIN_DIR/$program" ] || fail "$PERIGEE_BIN_DIR/$program is missing: give PERIGEE_BIN_DIR a folder that has it"
done

exec "$python" "$here/check.py" "$@"
