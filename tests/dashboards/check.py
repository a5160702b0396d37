"""Asks a real Prometheus every query of every dashboard and alert, after a simulated day. Run by tests/dashboards.sh.

The day is day.py's: real agents and ground stations with failures. `--show` prints what each query found, `--keep` keeps the
day's files.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from day import Day
from machines import HERE, ROOT
from stack import programs_directory

BIN = HERE.parent / "backends" / "bin"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULE_TESTS = sorted(HERE.glob("rules-*.yaml"))
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml"))

# Alerts that the day need not raise, and why. Their metrics exist all the same, and rules-*.yaml have them fire.
NOT_IN_A_DAY = {
    "PerigeeHashMismatch": "QUIC repairs what a link damages, and no program of ours sends a wrong hash",
    "PerigeePartialsPileUp": "needs 48 MiB of segments that never become whole",
    "PerigeeScrubFoundDamage": "what a running program has read is in its memory, where damage of the file does not reach it",
    "PerigeeBacklogOld": "an age goes by clocks that nobody sets, and the day takes minutes",
    "PerigeeDeliveryLate": "an age goes by clocks that nobody sets, and the day takes minutes",
    "PerigeeUrgentDataWaits": "an age goes by clocks that nobody sets, and the day takes minutes",
    "PerigeeStationCutOff": "needs a shared ledger on PostgreSQL; tests/fleet has it",
    "PerigeeAgentOwnRecordsLost": "needs more warnings than a day of minutes brings",
    "PerigeeRequestsAside": "needs a backend that takes some requests and does not decide about others",
    "PerigeeExporterHoldsStore": "needs a backend of a satellite that takes some signals and does not decide about another",
    "PerigeeExporterBehind": "needs a queue that grows for half an hour",
    "PerigeeTaskRestarted": "a release build has no panic to provoke",
    "PerigeeAgentLinkLossy": "loopback hardly loses anything",
}

# What the documentation advises to watch and an alert watches by another name.
BY_ANOTHER_NAME = {
    "perigee_spool_failing": "perigee_store_failing is the same, on both programs",
    "perigee_exporter_last_success_timestamp_seconds": "PerigeeExporterStuck sees it sooner, by requests that are sent again",
    "perigee_satellite_last_pass_connect_seconds": "PerigeePassFellShort looks at what came of it",
    "perigee_ground_dropped_*": "perigee_satellite_gap_items has the same by reason",
    "perigee_ground_lost_*": "perigee_satellite_gap_items has the same as station_lost",
}

METRIC = re.compile(r"\b(?:(?:perigee|otelcol)_\w+|up|satellite\w*:\w+)(?=[\s{)\[]|$)")


class Wrong(Exception):
    """Something does not hold; its text says what, a line each."""


def hold(problems):
    problems = list(problems)
    if problems:
        raise Wrong("\n".join(problems))


def command(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise Wrong(f"{pathlib.Path(str(words[0])).name} {words[1]}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Query:
    """One query of a panel."""

    def __init__(self, board, panel, target):
        self.place = f"{board['title']}: {panel['title']} {target['refId']}"
        self.expr, self.instant = target["expr"], target["instant"]


def boards():
    return [json.loads(path.read_text()) for path in DASHBOARDS]


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def layout_problems(board):
    """Panels within the grid, one beside the other, each with its words, its id and the data source's variable."""
    taken, ids = {}, set()
    names = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval", "__range", "__interval"}
    if "datasource" not in names or board["schemaVersion"] < 42 or not board["uid"].startswith("perigee-"):
        yield f"{board['title']}: uid, schemaVersion or the variable datasource"
    for panel in board["panels"]:
        place, at = f"{board['title']}: {panel['title']}", panel["gridPos"]
        if panel["id"] in ids:
            yield f"{place}: the id {panel['id']} is used twice"
        ids.add(panel["id"])
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if at["x"] + at["w"] > 24 or cells & taken.keys():
            yield f"{place}: lies outside of the grid or on another panel"
        taken |= dict.fromkeys(cells)
    for panel in panels(board):
        place = f"{board['title']}: {panel['title']}"
        if not panel["description"] or not panel["targets"]:
            yield f"{place}: no description or no query"
        for target in panel["targets"]:
            if target["datasource"]["uid"] != "${datasource}" or panel["datasource"]["uid"] != "${datasource}":
                yield f"{place}: another data source than the variable"
            unknown = set(re.findall(r"\$\{?(\w+)", target["expr"])) - names
            if unknown:
                yield f"{place}: no variable {', '.join(sorted(unknown))}"
    linked = set(re.findall(r"/d/([\w-]+)", json.dumps(board)))
    yield from (f"{board['title']}: no dashboard {uid}" for uid in linked - {b["uid"] for b in boards()})


def mount_problems():
    """deploy/compose.yaml mounts what Grafana's provisioning and Prometheus' configuration name, from folders that are there."""
    deploy = ROOT / "deploy"
    mounts = dict(re.findall(r"^      - \./(\S+?):(/\S+):ro$", (deploy / "compose.yaml").read_text(), re.M))
    provider = re.search(r"path: (\S+)", (deploy / "grafana" / "provisioning" / "dashboards" / "perigee.yaml").read_text())
    wanted = {
        "grafana/dashboards": provider.group(1),
        "grafana/provisioning": "/etc/grafana/provisioning",
        "prometheus.yml": "/etc/prometheus/prometheus.yml",
        "prometheus": "/etc/prometheus/prometheus",
    }
    yield from (
        f"deploy/compose.yaml: {source} is not mounted at {at}" for source, at in wanted.items() if mounts.get(source) != at
    )
    yield from (f"deploy/{source} is missing" for source in mounts if not (deploy / source).exists())


def rule_problems(rules):
    """Every alert has its words, its runbook and its tests; every alarm of the programs has its place in the runbook."""
    runbook = (ROOT / "docs" / "alerts.md").read_text()
    headings = {line.removeprefix("### ").lower() for line in runbook.splitlines() if line.startswith("### ")}
    tests = "".join(path.read_text() for path in RULE_TESTS)
    for rule in rules:
        name, labels, notes = rule["name"], rule["labels"], rule["annotations"]
        if (
            labels.get("severity") not in ("critical", "warning", "info")
            or not notes.get("summary")
            or not notes.get("description")
        ):
            yield f"{name}: no severity, summary or description"
        page, _, heading = notes.get("runbook_url", "").partition("#")
        if page != "docs/alerts.md" or heading != name.lower() or heading not in headings:
            yield f"{name}: its runbook is not docs/alerts.md#{name.lower()}"
        yield from (
            f"{name}: no test says that it {what}"
            for what in ("fires", "does not fire")
            if f"name: {name} {what}\n" not in tests
        )
    known = {rule["name"].lower() for rule in rules}
    yield from (f"docs/alerts.md: no alert {heading}" for heading in headings - known)
    links = set(re.findall(r"\(#(perigee\w+)\)", runbook))
    yield from (f"docs/alerts.md: a link to {link}, which is nowhere" for link in links - headings)
    yield from (
        f"docs/alerts.md says nothing of the alarm {alarm}" for alarm in sorted(alarms()) if f"`{alarm}`" not in runbook
    )


def alarms():
    """The names of all alarms in the sources of the programs."""
    found = set()
    for folder in ("space-agent/src", "ground-station/src", "shared/src"):
        for path in (ROOT / folder).rglob("*.rs"):
            found |= set(re.findall(r'event\.name = "([\w.]+)"', path.read_text()))
    if len(found) < 20:
        raise Wrong(f"only {len(found)} alarms were found in the sources")
    return found


def advised():
    """The metrics that the documentation names as worth an alert."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        found = re.search(r"^## Metrics worth an alert\n(.*?)(?=^## |\Z)", path.read_text(), re.M | re.S)
        if found:
            cells = [line.split("|")[1] for line in found.group(1).splitlines() if line.startswith("| `")]
            return [name for cell in cells for name in re.findall(r"`((?:perigee|otelcol)_\w+\*?\w*)", cell)]
    raise Wrong("no page has the section 'Metrics worth an alert'")


def finite(values):
    return [value for _, value in values if math.isfinite(float(value))]


class Asker:
    """Asks for what happened in the day."""

    def __init__(self, day):
        self.day, self.prometheus = day, day.prometheus
        self.length = math.ceil(day.ended - day.begun)

    def filled_in(self, expr, **values):
        """A panel's query as Grafana sends it, with every variable at All."""
        known = {"__rate_interval": "5s", "__interval": "1s", "__range": f"{self.length}s", **values}
        return re.sub(r"\$\{?(\w+)\}?", lambda name: known.get(name.group(1), ".*"), expr)

    def series(self, expr, step=1):
        """What a query finds in the day: series with at least one number."""
        data = self.prometheus.ask(
            "query_range", query=expr, start=f"{self.day.begun:.3f}", end=f"{self.day.ended:.3f}", step=step
        )
        return [(series["metric"], numbers) for series in data["result"] if (numbers := finite(series["values"]))]


def shown(place, expr, found):
    print(f"\n{place}\n  {expr}")
    for labels, numbers in found[:12]:
        said = ", ".join(f"{key}={value}" for key, value in labels.items())
        print(f"    {said or '-'}: {numbers[-1]} (of {len(numbers)}, most {max(map(float, numbers)):g})")


def panel_problems(asker, show):
    for board in boards():
        for panel in panels(board):
            rows = set()
            for target in panel["targets"]:
                query = Query(board, panel, target)
                # `or vector(0)` would answer 0 where there is no data.
                expr = asker.filled_in(query.expr.removesuffix(" or vector(0)"))
                try:
                    found = asker.series(expr)
                except AssertionError as error:
                    yield f"{query.place}: {error}"
                    continue
                if show:
                    shown(query.place, expr, found)
                if not found:
                    yield f"{query.place}: no data\n    {expr}"
                rows |= {tuple(sorted(labels)) for labels, _ in found}
            # A table joins its columns by all labels.
            if panel["type"] == "table" and len(panel["targets"]) > 1 and len(rows) != 1:
                yield f"{board['title']}: {panel['title']}: its columns have different labels: {sorted(rows)}"
        for note in board["annotations"]["list"]:
            if not asker.series(asker.filled_in(note["expr"])):
                yield f"{board['title']}: annotation {note['name']}: no data"


def variable_problems(asker):
    for board in boards():
        for variable in board["templating"]["list"]:
            if variable["type"] != "query":
                continue
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            labels = {labels.get(asked.group(2)) for labels, _ in asker.series(asker.filled_in(asked.group(1)))}
            if not labels - {None}:
                yield f"{board['title']}: the variable {variable['name']} has no values"


def alert_problems(asker, rules, show):
    for rule in rules:
        name = rule["name"]
        for metric in sorted(set(METRIC.findall(rule["query"]))):
            if not asker.series(f"count({metric})", step=5):
                yield f"{name}: {metric} was never there"
        found = asker.series(rule["query"])
        if show:
            shown(name, rule["query"], found)
        if not found and name not in NOT_IN_A_DAY:
            yield f"{name}: its condition never held in the day\n    {rule['query']}"
    yield from (f"NOT_IN_A_DAY: no alert {name}" for name in NOT_IN_A_DAY.keys() - {rule["name"] for rule in rules})


def health_problems(groups):
    """Prometheus could evaluate every rule, and the words of every alert that was raised are whole."""
    for group in groups:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                yield f"{rule['name']}: {rule['health']}: {rule.get('lastError')}"
            for alert in rule.get("alerts", []):
                for text in alert["annotations"].values():
                    # A label or value that is not there leaves a hole, and a template that fails says so.
                    if "<" in text or "{{" in text or "  " in text or text != text.strip():
                        yield f"{rule['name']}: its words are not whole: {text}"


def recording_problems(asker, groups):
    for group in groups:
        for rule in group["rules"]:
            if rule["type"] == "recording" and not asker.series(rule["name"]):
                yield f"{rule['name']}: no data"


def say(text):
    print(f"dashboards: {text}", file=sys.stderr, flush=True)


def run(options, directory):
    begun = time.monotonic()
    say("the files")
    command(sys.executable, ROOT / "deploy" / "grafana" / "dashboards.py", "--check")
    command(HERE / "bin" / "schema", *DASHBOARDS)
    command(BIN / "promtool", "check", "config", "deploy/prometheus.yml")
    command(BIN / "promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    command(BIN / "promtool", "test", "rules", *RULE_TESTS)
    hold([*mount_problems(), *(problem for board in boards() for problem in layout_problems(board))])
    day = Day(programs_directory(), directory, say)
    try:
        try:
            day.run()
        except AssertionError as failed:
            logs = "\n".join(f"--- {process.name}\n{process.tail(5)}" for process in day.processes)
            raise Wrong(f"the day went wrong: {failed}\n{logs}") from failed
        say(f"{day.ended - day.begun:.0f} s of day are over; asking")
        groups = day.prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
        asker = Asker(day)
        alarming = " ".join(rule["query"] for group in groups for rule in group["rules"])
        hold(
            [
                *rule_problems(rules),
                *health_problems(groups),
                *recording_problems(asker, groups),
                *variable_problems(asker),
                *panel_problems(asker, options.show),
                *alert_problems(asker, rules, options.show),
                *(
                    f"no alert looks at {name}, which the documentation advises"
                    for name in advised()
                    if name not in BY_ANOTHER_NAME and not re.search(name.replace("*", r"\w+"), alarming)
                ),
            ]
        )
        firing = asker.series('ALERTS{alertstate="firing"}')
        fired = {labels["alertname"] for labels, _ in firing}
    finally:
        day.stop()
    every = [panel for board in boards() for panel in panels(board)]
    queries = sum(len(panel["targets"]) for panel in every)
    return (
        f"{len(every)} panels, {len(rules)} alerts, {queries} queries of panels on {len(DASHBOARDS)} dashboards, all with data; "
        f"{len(rules) - len(NOT_IN_A_DAY)} alerts' conditions held in the day ({len(fired)} fired), {len(NOT_IN_A_DAY)} need not; "
        f"{time.monotonic() - begun:.0f} s"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print what each query found")
    parser.add_argument("--keep", action="store_true", help="keep the day's files")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="perigee-day-"))
    try:
        print(run(options, directory))
    except Wrong as wrong:
        sys.exit(f"dashboards: error: {wrong}\ndashboards: the day's files are kept in {directory}")
    if options.keep:
        say(f"the day's files are kept in {directory}")
    else:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
