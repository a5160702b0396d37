"""The same requests give the same data in the backends, whichever way they take: through the Collector, through space-agent's own
exporters, and through space-agent, a contact and ground-station. Each way has a Jaeger, a Prometheus and a VictoriaLogs.

Different are only: what the programs say of themselves, the attributes `satellite.id` and `ground.station.id` that the ground adds,
how many samples of target_info there are, the order inside a scope, and the name that VictoriaLogs gives to an empty scope.
"""

import collections
import json
import os
import pathlib
import shutil
import tempfile
import time
import types

import pytest
from recorded import record, replay
from stack import DEADLINE, HERE, Agent, Ground, Jaeger, Process, Prometheus, VictoriaLogs, free_port, listens, make_pki, programs_directory

SEED = int(os.environ.get("PERIGEE_SEED", time.time_ns() % 1_000_000))
OWN = {"space-agent", "ground-station"}
ADDED = {"satellite.id", "ground.station.id", "satellite_id", "ground_station_id"}


def without(labels, *names):
    return tuple(sorted((key, value) for key, value in labels.items() if key not in ADDED and key not in names))


class Way:
    """A way to a Jaeger, a Prometheus and a VictoriaLogs of its own."""

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self.jaeger, self.prometheus = Jaeger(self.directory), Prometheus(self.directory)
        self.logs = VictoriaLogs(self.directory)
        self.processes = [self.jaeger, self.prometheus, self.logs]

    def start(self, requests):
        """Starts everything and sends the requests."""
        for process in self.processes:
            process.start()
        replay(requests, self.grpc, self.http)

    def spans(self):
        """Each span as Jaeger shows it, and how often."""
        found = collections.Counter()
        for service in self.jaeger.services() - OWN:
            for trace in self.jaeger.traces(service, 0, int(time.time() * 1e6) + 1).values():
                for span in trace["spans"]:
                    process = trace["processes"][span["processID"]]
                    if process["serviceName"] != service:
                        continue  # of another service of the same trace, which is asked for as well
                    shown = {key: each for key, each in span.items() if key not in ("processID", "process")}
                    shown["tags"] = sorted(map(json.dumps, span["tags"]))
                    shown["of"] = sorted(json.dumps(tag) for tag in process.get("tags", []) if tag["key"] not in ADDED), service
                    found[json.dumps(shown, sort_keys=True)] += 1
        return found

    def series(self):
        """Each series of Prometheus with its samples, exemplars too."""
        now = time.time()
        found = {}
        for series in self.prometheus.query('{__name__=~".+"}[1d]', now):
            if series["metric"].get("job", "").rsplit("/", 1)[-1] in OWN:
                continue
            samples = series.get("values", []) + series.get("histograms", [])
            if series["metric"]["__name__"] == "target_info":
                samples = "some"
            found[without(series["metric"])] = samples
        for exemplars in self.prometheus.exemplars('{__name__=~".+"}', now - 3600, now):
            found[("exemplars", without(exemplars["seriesLabels"]))] = sorted(map(json.dumps, exemplars["exemplars"]))
        return found

    def infos(self):
        """What Prometheus joins to the points of the late service: target_info at the time of each of them."""
        found = {}
        for series in self.prometheus.query('{job="late",__name__!="target_info"}[1d]', time.time()):
            for at, _ in series["values"]:
                infos = self.prometheus.query('target_info{job="late"}', at)
                found[at] = sorted(without(info["metric"]) for info in infos)
        return found

    def records(self):
        """Each log record as VictoriaLogs shows it, and how often."""
        found = collections.Counter()
        for record in self.logs.query("*"):
            if record.get("service.name") in OWN:
                continue
            # The Collector makes an empty scope of none, to which VictoriaLogs gives this name. Perigee leaves what has none as it is.
            nameless = ("scope.name", "scope.version") if record.get("scope.name") == "unknown" else ()
            found[without(record, "_stream", "_stream_id", *nameless)] += 1
        return found

    def stop(self):
        for process in reversed(self.processes):
            process.stop()


def direct_config(way, own):
    """A configuration that the Collector and space-agent both run."""
    path = way.directory / "config.yaml"
    queue = "sending_queue: {storage: file_storage}, retry_on_failure: {max_elapsed_time: 0}"
    path.write_text(f"""\
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{way.grpc}"}}, http: {{endpoint: "127.0.0.1:{way.http}"}}}}}}
exporters:
  otlp_grpc: {{endpoint: "127.0.0.1:{way.jaeger.otlp}", tls: {{insecure: true}}, {queue}}}
  otlp_http/metrics: {{metrics_endpoint: "{way.prometheus.base}/api/v1/otlp/v1/metrics", {queue}}}
  otlp_http/logs: {{logs_endpoint: "{way.logs.base}/insert/opentelemetry/v1/logs", {queue}}}
extensions:
  file_storage: {{directory: {way.directory}/queue, create_directory: true}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlp_grpc]}}
    metrics: {{receivers: [otlp], exporters: [otlp_http/metrics]}}
    logs: {{receivers: [otlp], exporters: [otlp_http/logs]}}
""")
    way.processes.append(Process(own[0], [*own[1:], "--config", path], way.directory, lambda: listens(way.grpc) and listens(way.http)))


def through_the_collector(directory):
    way = Way("collector", directory)
    way.grpc, way.http = free_port(), free_port()
    direct_config(way, ["collector", HERE / "bin" / "collector"])
    return way


def through_the_agents_exporters(directory):
    way = Way("direct", directory)
    way.grpc, way.http = free_port(), free_port()
    direct_config(way, ["space-agent", programs_directory() / "space-agent", "run"])
    return way


def through_a_contact(directory):
    way = Way("contact", directory)
    programs = programs_directory()
    pki = make_pki(programs / "ground-station", way.directory)
    ground = Ground(way.directory, programs / "ground-station", pki, way.jaeger, way.prometheus, way.logs)
    way.agent = Agent(way.directory, programs / "space-agent", pki, ground)
    way.grpc, way.http = way.agent.grpc, way.agent.http
    way.processes += [ground, way.agent]
    return way


@pytest.fixture(scope="module")
def ways(watch, request):
    """The three ways, after all requests have arrived."""
    print(f"PERIGEE_SEED={SEED}")
    requests = record(SEED)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="perigee-"))
    collector, direct, contact = ways = [
        make(directory) for make in (through_the_collector, through_the_agents_exporters, through_a_contact)
    ]
    watch(types.SimpleNamespace(directory=directory, processes=[process for way in ways for process in way.processes]))
    try:
        for way in ways:
            way.start(requests)
        assert not contact.jaeger.services(), "something arrived before the contact"
        with contact.agent.contact():
            # A program that ends in order has sent what it had, so that what is missing or twice afterwards stays so.
            deadline = time.monotonic() + DEADLINE
            while any(way.spans() != collector.spans() or way.records() != collector.records() or way.series() != collector.series()
                      for way in (direct, contact)) and time.monotonic() < deadline:
                time.sleep(0.5)
        for way in ways:
            way.processes[-1].stop()
        yield ways
    finally:
        for way in ways:
            way.stop()
        if not request.session.testsfailed:
            shutil.rmtree(directory)


def test_target_info_of_late_points_is_there_with_the_clients_own_attributes(ways):
    for way in ways:
        for at, infos in way.infos().items():
            assert len(infos) == 1, f"{way.name}: {infos} at {at}"
            assert ("deployment_environment_name", "orbit") in infos[0], f"{way.name}: {infos}"


def differences(theirs, ours):
    """What only one of two has, shortened."""
    return [f"{side} {key}: {mine.get(key)!s:.300}" for side, mine, other in (("-", theirs, ours), ("+", ours, theirs))
            for key in mine if other.get(key) != mine[key]]


@pytest.mark.parametrize("what, at_least", [("spans", 160), ("series", 84), ("infos", 6), ("records", 134)])
def test_all_ways_give_the_backends_the_same(ways, what, at_least):
    theirs, *ours = (getattr(way, what)() for way in ways)
    assert len(theirs) >= at_least, f"the Collector's backends have {len(theirs)} {what}"
    for way, mine in zip(ways[1:], ours, strict=True):
        different = differences(theirs, mine)
        assert not different, f"{way.name}: {len(different)} {what} differ from the Collector's:\n" + "\n".join(different[:20])
