#!/usr/bin/env bash
# Builds real backends (Prometheus, Jaeger, VictoriaMetrics, VictoriaLogs) and a Collector from their Go modules, and runs the tests
# that send through space-agent and ground-station into them, and those that compare with the Collector.
#
#   tests/backends.sh                  build what is missing or out of date, then test
#   tests/backends.sh --build-only     build alone; names behind it (prometheus, promtool) build these alone
#   tests/backends.sh -k counters      anything else goes to pytest
#
# PERIGEE_BIN_DIR names a folder with space-agent and ground-station; without it the release binaries are built here.
# PYTHON names the interpreter (python3). The first build takes about 10 minutes on two cores, and the modules 3 GiB of Go's cache.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$root/tests/backends
bin=$here/bin
venv=$here/.venv
python=${PYTHON:-python3}

say() { printf 'backends: %s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is missing: $2"; }

# timed WHAT COMMAND...: runs the command and says how long it took.
timed() {
  local what=$1 start=$SECONDS
  shift
  say "$what ..."
  "$@" || fail "$what failed (exit code $?); the reason stands above"
  say "$what: $((SECONDS - start)) s"
}

# current STAMP KEY: whether the stamp says that what stands there was made from this key.
current() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

key_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

# go_program FOLDER NAME PACKAGE MINUTES [FLAG...]: bin/NAME from the module in the folder.
go_program() {
  local folder=$here/$1 name=$2 package=$3 minutes=$4 key
  shift 4
  local sources=("$folder"/go.*)
  [ ! -f "$folder/main.go" ] || sources+=("$folder/main.go")
  key="$(key_of "${sources[@]}") $(go env GOVERSION GOOS GOARCH | xargs) $*"
  if [ -x "$bin/$name" ] && current "$bin/$name.stamp" "$key"; then
    say "$name is up to date"
    return
  fi
  rm -f "$bin/$name.stamp"
  timed "building $name (about $minutes min the first time)" \
    go -C "$folder" build -mod=readonly -trimpath "$@" -o "$bin/$name.new" "$package"
  mv "$bin/$name.new" "$bin/$name"
  echo "$key" >"$bin/$name.stamp"
}

python_client() {
  local key
  key="$(key_of "$here/requirements.txt") $("$python" --version)"
  if [ -x "$venv/bin/pytest" ] && current "$venv/stamp" "$key"; then
    say "the Python client is up to date"
    return
  fi
  rm -rf "$venv"
  timed "making the virtual environment" "$python" -m venv "$venv"
  timed "installing the OpenTelemetry SDK for Python" \
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  echo "$key" >"$venv/stamp"
}

build_only=
if [ "${1:-}" = --build-only ]; then
  build_only=1
  shift
fi
only=" ${build_only:+$*} "

# wanted NAME: whether it is to be built.
wanted() { [[ $only =~ ^\ *$ || $only == *" $1 "* ]]; }

need go "install Go 1.26 or later (https://go.dev/dl/)"
need "$python" "install Python 3.10 or later, or name it with PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "$("$python" --version) is too old: install Python 3.10 or later, or name it with PYTHON"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail "$python has no venv: install it (Debian: apt-get install python3-venv)"
[ -n "${PERIGEE_BIN_DIR:-}" ] || need cargo "install Rust (https://rustup.rs), or give PERIGEE_BIN_DIR"

[ -z "${PERIGEE_BIN_DIR:-}" ] || PERIGEE_BIN_DIR=$(realpath -m "$PERIGEE_BIN_DIR")
cd "$root"
mkdir -p "$bin"
! wanted prometheus || go_program prometheus prometheus github.com/prometheus/prometheus/cmd/prometheus 4 -tags remove_all_sd
# Only tests/dashboards.sh needs it.
[[ $only != *" promtool "* ]] || go_program prometheus promtool github.com/prometheus/prometheus/cmd/promtool 2 -tags remove_all_sd
! wanted jaeger || go_program jaeger jaeger github.com/jaegertracing/jaeger/cmd/jaeger 4
! wanted victorialogs || go_program victoria victorialogs github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs 1
! wanted victoriametrics || go_program victoria victoriametrics github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics 1
! wanted gosdk || go_program gosdk gosdk . 1
! wanted collector || go_program collector collector . 2
! wanted python || python_client
[[ $only =~ ^\ *$ ]] || exit 0

if [ -z "${PERIGEE_BIN_DIR:-}" ]; then
  timed "building space-agent and ground-station" \
    cargo build --release -p space-agent -p ground-station
  PERIGEE_BIN_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
fi
export PERIGEE_BIN_DIR
for program in space-agent ground-station; do
  [ -x "$PERIGEE_BIN_DIR/$program" ] || fail "$PERIGEE_BIN_DIR/$program is missing: give PERIGEE_BIN_DIR a folder that has it"
done
[ -z "$build_only" ] || exit 0

say "testing"
exec "$venv/bin/python" -m pytest -p no:cacheprovider -v "$here/test_backends.py" "$here/test_compression.py" \
  "$here/test_hostmetrics.py" "$here/test_orbit.py" "$here/test_parity.py" "$@"
