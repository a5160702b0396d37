#!/usr/bin/env bash
# What a plan of 20,000 contacts costs: how long `space-agent contact list` takes, and how much memory the agent has above one with a plan of
# one contact. Prints both beside their bounds; ends with 1 when one is exceeded.
#
#   tests/long-plan.sh [FOLDER]    the folder with space-agent and ground-station, built with --release (target/release)
set -euo pipefail

bin=$(realpath "${1:-target/release}")
contacts=20000 most_ms=100 most_kib=4096
dir=$(mktemp -d)
agent=
trap 'if [ -n "$agent" ]; then kill "$agent" 2>/dev/null && wait "$agent" 2>/dev/null || true; fi; rm -r "$dir"' EXIT
cd "$dir"
"$bin/ground-station" pki init --dir pki --domain example.org >/dev/null
"$bin/ground-station" pki issue satellite sat-1 --dir pki >/dev/null
cat >agent.yaml <<YAML
receivers: {otlp: {protocols: {http: {endpoint: "127.0.0.1:0"}}}}
exporters: {link: {}}
storage: {directory: data, max_bytes: 100MiB}
link:
  certificate_file: pki/satellite-sat-1.crt
  private_key_file: pki/satellite-sat-1.key
  station_ca_file: pki/station-ca.crt
  stations: {svalbard: {address: "127.0.0.1:4433"}, beijing: {address: "127.0.0.1:4434"}}
contacts: {source: plan, file: plan.yaml}
extensions: {control: {socket: agent.sock}}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [link]}
YAML

# A plan of so many contacts, from tomorrow on, one every two hours.
plan() {
    local from
    from=$(($(date +%s) + 86400))
    awk -v n="$1" -v from="$from" 'BEGIN {
        print "contacts:"
        for (i = 0; i < n; i++) {
            at = from + i * 7200
            printf "- {station: %s, start: %s, end: %s, rate_down: 20Mbit/s, rate_up: 64kbit/s, light_time: 4ms, guard: 2s}\n", \
                i % 2 ? "beijing" : "svalbard", strftime("%Y-%m-%dT%H:%M:%SZ", at, 1), strftime("%Y-%m-%dT%H:%M:%SZ", at + 480, 1)
        }
    }'
}

listed() {
    "$bin/space-agent" contact list -c agent.yaml --json "$@"
}

# Starts the agent with a plan of so many contacts and waits until it has them.
start() {
    plan "$1" >plan.yaml
    "$bin/space-agent" run -c agent.yaml 2>agent.log &
    agent=$!
    until listed --until 9000d 2>/dev/null | grep -q '"station"'; do
        kill -0 "$agent" || { cat agent.log >&2; exit 1; }
        sleep 0.1
    done
}

stop() {
    kill "$agent"
    wait "$agent" || true
    agent=
}

# KiB of the agent in memory, now (VmRSS) or at most so far (VmHWM).
memory() {
    awk -v what="$1:" '$1 == what { print $2 }' "/proc/$agent/status"
}

# KiB of the agent in memory once it is the same for a second: what was freed goes back to the system within half of one.
resident() {
    local before now
    now=$(memory VmRSS)
    for _ in $(seq 20); do
        before=$now
        sleep 1
        now=$(memory VmRSS)
        [ "$now" != "$before" ] || break
    done
    echo "$now"
}

# The shortest of ten calls, ms: what else the machine does is not of interest.
fastest() {
    for _ in $(seq 10); do
        local began
        began=$(date +%s%N)
        listed "$@" >list.json
        echo $((($(date +%s%N) - began) / 1000000))
    done | sort -n | head -1
}

start 1
alone=$(resident)
most_alone=$(memory VmHWM)
stop
start "$contacts"
many=$(resident)
most=$(memory VmHWM)
first=$(fastest)
all=$(fastest --until 9000d)
found=$(grep -o '"station"' list.json | wc -l)
after=$(resident)
stop
[ "$found" = "$contacts" ] || { echo "long-plan: $found of $contacts contacts were listed" >&2; exit 1; }
echo "contact list                 $first ms (the next 100 of $contacts)"
echo "contact list --until         $all ms (all $contacts)"
echo "bound                        $most_ms ms"
echo "memory above a short plan    $((many - alone)) KiB, $((after - alone)) KiB after the lists"
echo "bound                        $most_kib KiB"
echo "while it is read             $((most - most_alone)) KiB, for half a second"
[ "$first" -le "$most_ms" ] && [ $((many - alone)) -le "$most_kib" ] && [ $((after - alone)) -le "$most_kib" ]
