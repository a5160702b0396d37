#!/usr/bin/env bash
# Captures logs of real programs, for measuring what the text of a log costs.
#
#   tests/text-logs.sh DIRECTORY             everything that can be captured on this machine
#   tests/text-logs.sh DIRECTORY SOURCE...   these alone
#
# | source     | what runs                                                         | files in DIRECTORY                               |
# | ---------- | ----------------------------------------------------------------- | ------------------------------------------------ |
# | python     | a service with the ids of its spans in its lines                  | service-{json,logfmt,prose}.log, service.spans   |
# | java       | the same with slf4j, logback and the OpenTelemetry SDK            | java.log, java.spans                             |
# | postgres   | PostgreSQL under pgbench                                          | postgres.log                                     |
# | collector  | an OpenTelemetry Collector, of whose exporters some fail          | collector.log (JSON)                             |
# | jaeger     | Jaeger that stores, samples and finds traces                      | jaeger.log (JSON)                                |
# | prometheus | Prometheus whose targets, rules and configuration fail in part    | prometheus.log (logfmt)                          |
# | perigee    | space-agent and ground-station through contacts                   | space-agent.log, ground-station.log              |
# | dpkg       | nothing: the log that is there                                    | dpkg.log                                         |
# | journal    | nothing: systemd's journal, its last 20,000 lines                 | journal.log                                      |
#
# It says what it leaves out, why, and what would help; a source that fails leaves no file and the others go on. Takes about five
# minutes once the programs are built: tests/backends.sh builds the Collector, Jaeger and Prometheus.
# PERIGEE_BIN_DIR names a folder with space-agent and ground-station; without it the release binaries of this tree are used.
# PYTHON names the interpreter (python3).
set -euo pipefail
shopt -s nullglob

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$root/tests/text-logs
python=${PYTHON:-python3}
export PERIGEE_BIN_DIR=${PERIGEE_BIN_DIR:-${CARGO_TARGET_DIR:-$root/target}/release}

say() { printf 'text-logs: %s\n' "$*" >&2; }

left_out() { say "$1 is left out: $2"; }

# have PROGRAM...: whether all of them are there.
have() {
  local program
  for program; do command -v "$program" >/dev/null || return; done
}

out=${1:?"usage: tests/text-logs.sh DIRECTORY [SOURCE...]"}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d /tmp/text-logs-XXXXXX)
child=

# as_postgres COMMAND: PostgreSQL does not run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then su postgres -c "$1"; else bash -c "$1"; fi
}

clean_up() {
  # The captures stop their programs when they are told to stop themselves.
  [ -z "$child" ] || { kill "$child" 2>/dev/null && wait "$child"; } || true
  [ ! -f "$work/postgres/db/postmaster.pid" ] || as_postgres "$pg/pg_ctl -D $work/postgres/db -m immediate stop >/dev/null" || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run COMMAND...: runs it as a child that ends with this script.
run() {
  local code=0
  "$@" &
  child=$!
  wait "$child" || code=$?
  child=
  return "$code"
}

# keep SOURCE: hands over what a source has written to its folder.
keep() { mv "$work/$1"/*.{log,spans} "$out"; }

capture_python() {
  run "$python" "$here/service.py" "$work/python" 6000 || { left_out "the Python service" "it failed; the reason stands above"; return; }
  keep python
}

capture_java() {
  local libraries=$work/java/libraries
  have java mvn || { left_out "the Java service" "no java or no mvn: install Java 17 or later and Maven"; return; }
  mvn -q -B -f "$here/java/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$libraries" ||
    { left_out "the Java service" "Maven got no libraries; the reason stands above"; return; }
  run java "-Ddirectory=$work/java" "-Dlogback.configurationFile=$here/java/logback.xml" -cp "$libraries/*" "$here/java/Shop.java" \
    "$work/java" 1200 || { left_out "the Java service" "it failed; the reason stands above (it takes Java 17 or later)"; return; }
  keep java
}

# postgres_under_load FOLDER: fails with the first command that fails.
postgres_under_load() {
  local settings="-c listen_addresses='' -c log_statement=all -c log_duration=on -c log_connections=on"
  as_postgres "$pg/initdb -D $1/db -A trust >/dev/null" &&
    as_postgres "$pg/pg_ctl -D $1/db -w -l $1/log -o \"-k $1 $settings -c log_line_prefix='%m [%p] %q%u@%d '\" start >/dev/null" &&
    as_postgres "$pg/createdb -h $1 bench && $pg/pgbench -h $1 -i -q bench 2>/dev/null >/dev/null" &&
    as_postgres "$pg/pgbench -h $1 -c 4 -t 700 bench 2>/dev/null >/dev/null" &&
    as_postgres "$pg/pg_ctl -D $1/db -m fast stop >/dev/null"
}

capture_postgres() {
  local folder=$work/postgres
  pg=$(pg_config --bindir 2>/dev/null) ||
    { left_out PostgreSQL "no pg_config: install PostgreSQL with its tools (Debian: apt-get install postgresql libpq-dev)"; return; }
  have "$pg/initdb" "$pg/pgbench" ||
    { left_out PostgreSQL "no pgbench or no initdb in $pg: install them (Debian: apt-get install postgresql)"; return; }
  [ "$(id -u)" != 0 ] || chown postgres "$folder"
  postgres_under_load "$folder" || { left_out PostgreSQL "a command failed; the reason stands above"; return; }
  cp "$folder/log" "$out/postgres.log"
}

# capture_backend SOURCE: one of the programs that tests/backends.sh builds.
capture_backend() {
  "$root/tests/backends.sh" --build-only "$1" || { left_out "$1" "it is not built; the reason stands above"; return; }
  run "$python" "$here/$1.py" "$work/$1" || { left_out "$1" "it failed; the reason stands above"; return; }
  keep "$1"
}

capture_collector() { capture_backend collector; }
capture_jaeger() { capture_backend jaeger; }
capture_prometheus() { capture_backend prometheus; }

capture_perigee() {
  have "$PERIGEE_BIN_DIR"/{space-agent,ground-station} || {
    left_out Perigee "no programs in $PERIGEE_BIN_DIR: cargo build --release -p space-agent -p ground-station, or give PERIGEE_BIN_DIR"
    return
  }
  run "$python" "$here/perigee.py" "$work/perigee" || { left_out "Perigee" "it failed; the reason stands above"; return; }
  keep perigee
}

capture_dpkg() {
  [ -r /var/log/dpkg.log ] || { left_out dpkg "no /var/log/dpkg.log: run this on Debian or what derives from it"; return; }
  cp /var/log/dpkg.log "$out/dpkg.log"
}

capture_journal() {
  local lines
  have journalctl || { left_out "systemd's journal" "no journalctl: run this on a machine with systemd"; return; }
  journalctl -q --no-pager --no-hostname -n 20000 -o short-iso-precise >"$work/journal/journal.log" 2>/dev/null || true
  lines=$(wc -l <"$work/journal/journal.log")
  [ "$lines" -ge 1000 ] ||
    { left_out "systemd's journal" "it has $lines lines for this user: run this as root where systemd has run for a while"; return; }
  keep journal
}

sources=(python postgres dpkg journal java collector jaeger prometheus perigee)
chosen=("${@:-${sources[@]}}")
for source in "${chosen[@]}"; do
  [[ " ${sources[*]} " == *" $source "* ]] || { say "error: no source $source; there are ${sources[*]}"; exit 64; }
done
have "$python" || { say "error: no $python: install Python 3.10 or later, or name it with PYTHON"; exit 1; }
chmod 711 "$work"
for source in "${chosen[@]}"; do
  say "$source ..."
  mkdir "$work/$source"
  "capture_$source"
done
wc -lc "$out"/*.log >&2
