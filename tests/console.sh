#!/usr/bin/env bash
# Drives the console of a running ground-station with headless Chromium.
#
# Needs: Node 20 or later with npm, and Chromium (Debian: apt-get install chromium). CHROMIUM names another one.
# Uses the programs in target/debug (or PROFILE=release, or those that GROUND_STATION and SPACE_AGENT name).
# A small program of this workspace fills the store of the simulated fleet (or CONSOLE_FLEET names it).
# With DEMO, or after `cargo build -p demo`, over the demo too.
# SCREENSHOTS=DIRECTORY takes pictures of the pages over a small fleet instead, as in docs/screenshots. Without a browser it says so and ends with 0; REQUIRE_BROWSER=1 makes that an error.
set -euo pipefail
cd "$(dirname "$0")/console"

skip() {
    echo "console tests skipped: $1"
    [ -z "${REQUIRE_BROWSER:-}" ] || exit 1
    exit 0
}

for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name" > /dev/null; then
        CHROMIUM=$(command -v "$name")
        break
    fi
    CHROMIUM=
done
[ -n "$CHROMIUM" ] || skip "no Chromium; apt-get install chromium, or name one with CHROMIUM"
command -v npm > /dev/null || skip "no npm; apt-get install npm"
node -e 'process.exit(parseInt(process.versions.node, 10) < 20 ? 1 : 0)' || skip "Node is older than 20"

if [ -z "${GROUND_STATION:-}" ] || [ -z "${SPACE_AGENT:-}" ]; then
    profile=${PROFILE:-debug}
    flags=(); [ "$profile" = debug ] || flags=(--profile "$profile")
    (cd ../.. && cargo build -p ground-station -p space-agent "${flags[@]}")
    target=${CARGO_TARGET_DIR:-../../target}
    export GROUND_STATION=$target/$profile/ground-station SPACE_AGENT=$target/$profile/space-agent
fi
if [ -z "${CONSOLE_FLEET:-}" ] && [ -z "${SCREENSHOTS:-}" ]; then
    (cd ../.. && cargo build -p console-fleet)
    CONSOLE_FLEET=$(realpath "${CARGO_TARGET_DIR:-../../target}/debug/console-fleet")
    export CONSOLE_FLEET
fi
built=$(realpath -m "${CARGO_TARGET_DIR:-../../target}/debug/demo")
[ -n "${DEMO:-}" ] || [ ! -x "$built" ] || export DEMO=$built
[ -d node_modules/playwright-core ] || npm ci --no-audit --no-fund || skip "the packages of package-lock.json cannot be had"
export CHROMIUM
if [ -n "${SCREENSHOTS:-}" ]; then
    exec node screenshots.mjs "$SCREENSHOTS"
fi
exec node --test --test-concurrency=1 console.test.mjs fleet.test.mjs demo.test.mjs
