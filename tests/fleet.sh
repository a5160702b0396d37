#!/usr/bin/env bash
# Starts a shared ledger of three servers (etcd, Patroni, PostgreSQL), two stations and an exporter with deploy/fleet/fleet.sh, kills
# or pauses the primary in the middle of passes. Fails when an item is lost or twice in the ledger, when more comes twice to the backend
# than the request that each fault left undecided, or when the ledger takes no writes for 40 s.
#
#   tests/fleet.sh                             two deaths, about two minutes
#   tests/fleet.sh --rounds 20 --faults pause  as many as wanted, of another kind; --seed N sends other items
#   tests/fleet.sh crowd                       no faults: 10, 100 and 1,000 satellites over four stations, an hour each, and what the
#                                              ground takes for them; --minutes 5 --satellites 10,100 for less
#
# PERIGEE_BIN_DIR names a folder with space-agent and ground-station; without it the release binaries of this tree are used.
# FLEET_TOOLS names a folder that keeps etcd and Patroni from one run to the next. KEEP=1 keeps data and logs.
# Root is not needed. Debian's packages: postgresql-15, python3-venv, openssl, curl, jq.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$(realpath "${PERIGEE_BIN_DIR:-$root/target/release}")
parent=$(mktemp -d /tmp/perigee-fleet-XXXXXX)
chmod 755 "$parent"
export BIN DIR=$parent/fleet NET=${NET:-127.77.$((RANDOM % 250 + 1))}
fleet=$root/deploy/fleet/fleet.sh
test=(failover.py)
if [ "${1:-}" = crowd ]; then
    shift
    export STATIONS="svalbard kiruna inuvik troll" CONNECTIONS=64
    test=(crowd.py --stations "$STATIONS")
fi

clean_up() {
    [ ! -e "$DIR/run" ] || "$fleet" stop
    if [ -n "${KEEP:-}" ]; then echo "kept: $parent" >&2; else rm -rf "$parent"; fi
}
trap clean_up EXIT

"$fleet" start
python3 "$root/tests/failover/${test[0]}" "$DIR" --bin "$BIN" --net "$NET" --fleet "$fleet" "${test[@]:1}" "$@"
