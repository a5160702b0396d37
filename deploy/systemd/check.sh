#!/bin/sh
# Fails when a unit is wrong or exposes more than 2.0 of 10 by systemd's own score. Needs systemd-analyze (Debian: systemd), not a
# running systemd.
set -eu
cd "$(dirname "$0")"

if ! command -v systemd-analyze >/dev/null; then
    echo "check.sh: systemd-analyze is missing; install the package systemd" >&2
    exit 1
fi

failed=0
for unit in *.service ../fleet/*.service; do
    # The score is times 10 here: 20 is 2.0.
    if score=$(systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" 2>&1); then
        echo "$unit: $(echo "$score" | sed -n 's/.*Overall exposure level[^:]*: *\([0-9.]*\).*/\1/p')"
    else
        echo "$score" >&2
        echo "check.sh: $unit exposes more than 2.0" >&2
        failed=1
    fi
    # A misspelled key only warns, and the programs are not installed where this runs.
    wrong=$(systemd-analyze verify --man=no "./$unit" 2>&1 | grep "${unit##*/}" | grep -v 'is not executable' || true)
    if [ -n "$wrong" ]; then
        echo "$wrong" >&2
        failed=1
    fi
done
exit "$failed"
