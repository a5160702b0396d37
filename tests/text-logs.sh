#!/usr/bin/env bash
# Captures logs of real programs, for measuring what the text of a log costs.
#
#   tests/text-logs.sh DIRECTORY
#
# Writes to DIRECTORY what can be captured on this machine: a Python service that logs JSON, logfmt and prose with the ids of its
# spans in the lines, and the spans (service.spans); PostgreSQL under pgbench; dpkg's own log. It says what it leaves out.
# PYTHON names the interpreter (python3). Takes about a minute.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/text-logs
python=${PYTHON:-python3}

say() { printf 'text-logs: %s\n' "$*" >&2; }

out=${1:?"usage: tests/text-logs.sh DIRECTORY"}
mkdir -p "$out"
out=$(cd "$out" && pwd)

# as_postgres COMMAND: PostgreSQL does not run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then su postgres -c "$1"; else bash -c "$1"; fi
}

capture_postgres() {
  local bin data
  bin=$(pg_config --bindir 2>/dev/null) || { say "PostgreSQL is left out: no pg_config"; return; }
  [ -x "$bin/pgbench" ] || { say "PostgreSQL is left out: no pgbench in $bin"; return; }
  data=$(mktemp -d)
  [ "$(id -u)" != 0 ] || chown postgres "$data"
  local settings="-c listen_addresses='' -c log_statement=all -c log_duration=on -c log_connections=on"
  as_postgres "$bin/initdb -D $data/db -A trust >/dev/null"
  as_postgres "$bin/pg_ctl -D $data/db -w -l $data/log -o \"-k $data $settings -c log_line_prefix='%m [%p] %q%u@%d '\" start >/dev/null"
  as_postgres "$bin/createdb -h $data bench && $bin/pgbench -h $data -i -q bench 2>/dev/null >/dev/null"
  as_postgres "$bin/pgbench -h $data -c 4 -t 700 bench 2>/dev/null >/dev/null"
  as_postgres "$bin/pg_ctl -D $data/db -m fast stop >/dev/null"
  cp "$data/log" "$out/postgres.log"
  rm -rf "$data"
}

say "a Python service ..."
"$python" "$here/service.py" "$out" 6000
say "PostgreSQL under pgbench ..."
capture_postgres
if [ -r /var/log/dpkg.log ]; then cp /var/log/dpkg.log "$out/dpkg.log"; else say "dpkg is left out: no /var/log/dpkg.log"; fi
wc -lc "$out"/*.log >&2
