#!/bin/sh
# Sends a trace of three spans, a log record and a data point over OTLP/HTTP, as a service on board would.
#   send.sh [URL]    http://127.0.0.1:14318 by default
set -eu
url=${1:-http://127.0.0.1:14318}
now=$(date +%s)
trace=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
span() { od -An -N8 -tx1 /dev/urandom | tr -d ' \n'; }
root=$(span)
service='"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"adcs"}}]}'
spans=
for step in "slew $root 0 900000000" "measure $(span) 100000000 300000000" "correct $(span) 400000000 800000000"; do
    # shellcheck disable=SC2086
    set -- $step
    parent=$root
    [ "$2" != "$root" ] || parent=
    spans="$spans${spans:+,}{\"traceId\":\"$trace\",\"spanId\":\"$2\",\"parentSpanId\":\"$parent\",\"name\":\"$1\",\"kind\":1,\
\"startTimeUnixNano\":\"$now$(printf %09d "$3")\",\"endTimeUnixNano\":\"$now$(printf %09d "$4")\"}"
done
send() {
    answer=$(curl -sS --max-time 10 -H 'content-type: application/json' -d "$2" "$url/v1/$1")
    echo "$1: $answer"
}
send traces "{\"resourceSpans\":[{$service,\"scopeSpans\":[{\"spans\":[$spans]}]}]}"
send logs "{\"resourceLogs\":[{$service,\"scopeLogs\":[{\"logRecords\":[{\"timeUnixNano\":\"${now}000000000\",\"severityNumber\":9,\
\"body\":{\"stringValue\":\"slew finished\"},\"traceId\":\"$trace\",\"spanId\":\"$root\"}]}]}]}"
send metrics "{\"resourceMetrics\":[{$service,\"scopeMetrics\":[{\"metrics\":[{\"name\":\"adcs.pointing.error\",\"unit\":\"deg\",\
\"gauge\":{\"dataPoints\":[{\"timeUnixNano\":\"${now}000000000\",\"asDouble\":0.02}]}}]}]}]}"
echo "trace $trace"
