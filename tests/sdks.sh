#!/usr/bin/env bash
# The comparison with the Collector (tests/backends/test_parity.py) with what the SDKs for JavaScript and Java send as well.
# Needs Node 20 with npm, Java 17 with Maven, and what tests/backends.sh needs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/backends" && pwd)
sdks=$here/sdks
[ -d "$sdks/javascript/node_modules" ] || npm install --prefix "$sdks/javascript" --no-package-lock --no-audit --no-fund
[ -f "$sdks/java/target/classes/Send.class" ] && [ "$sdks/java/target/classes/Send.class" -nt "$sdks/java/src/main/java/Send.java" ] ||
    mvn -q -B -f "$sdks/java/pom.xml" compile dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=target/lib
PERIGEE_SDKS="node '$sdks/javascript/send.mjs'
java -cp '$sdks/java/target/classes:$sdks/java/target/lib/*' Send" exec "$here/../backends.sh" -k test_all_ways
