"""space-agent and the Collector measure this machine at the same time, and say the same of it."""

import contextlib
import gzip
import http.server
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from stack import DEADLINE, HERE, Process, programs_directory

# `process` is told apart by its programs, since processes begin and end. Every metric that Linux offers is turned on.
SCRAPERS = """\
cpu:
  metrics: {system.cpu.utilization: {enabled: true}, system.cpu.physical.count: {enabled: true}, system.cpu.frequency: {enabled: true}}
load:
memory:
  metrics:
    system.linux.memory.available: {enabled: true}
    system.linux.memory.dirty: {enabled: true}
    system.memory.limit: {enabled: true}
    system.memory.linux.hugepages.limit: {enabled: true}
    system.memory.linux.hugepages.page_size: {enabled: true}
    system.memory.linux.hugepages.reserved: {enabled: true}
    system.memory.linux.hugepages.surplus: {enabled: true}
    system.memory.linux.hugepages.usage: {enabled: true}
    system.memory.linux.hugepages.utilization: {enabled: true}
    system.memory.linux.shared: {enabled: true}
    system.memory.page_size: {enabled: true}
    system.memory.utilization: {enabled: true}
disk:
filesystem: {metrics: {system.filesystem.utilization: {enabled: true}}}
network:
paging: {metrics: {system.paging.utilization: {enabled: true}}}
processes:
system:
process:
  include: {names: [%s], match_type: strict}
  mute_process_all_errors: true
  metrics:
    process.context_switches: {enabled: true}
    process.cpu.utilization: {enabled: true}
    process.disk.operations: {enabled: true}
    process.memory.utilization: {enabled: true}
    process.open_file_descriptors: {enabled: true}
    process.paging.faults: {enabled: true}
    process.signals_pending: {enabled: true}
    process.threads: {enabled: true}
    process.uptime: {enabled: true}
"""

# The Collector multiplies these by the size of a page, though they are counts. Perigee gives the counts.
MULTIPLIED = {"system.paging.faults", "system.paging.operations"}

# Numbers that hold still, or nearly so, between two reads that are at most some seconds apart: name to relative difference.
STEADY = {
    "system.cpu.logical.count": 0,
    "system.cpu.physical.count": 0,
    "system.memory.limit": 0,
    "system.memory.page_size": 0,
    "system.memory.linux.hugepages.limit": 0,
    "system.cpu.time": 0.05,
    "system.disk.io": 0.05,
    "system.disk.operations": 0.05,
    "system.network.io": 0.05,
    "system.processes.created": 0.05,
    "system.paging.faults": 0.05,
    "system.paging.operations": 0.05,
    "system.filesystem.usage": 0.05,
    "system.uptime": 0.05,
    "process.threads": 0.5,
    "process.memory.virtual": 0.5,
}


class Sink:
    """An OTLP backend that keeps metrics, one set for each path."""

    def __init__(self):
        self.requests = {"collector": [], "perigee": []}
        kept = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                kept[self.path.split("/")[1]].append(ExportMetricsServiceRequest.FromString(body))
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def metrics(self, who):
        """The latest point of every series: resource, scope, schema, metric and attributes tell them apart."""
        out = {}
        for request in list(self.requests[who]):
            for resource in request.resource_metrics:
                of = attributes(resource.resource.attributes)
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        data = getattr(metric, metric.WhichOneof("data"))
                        kind = metric.WhichOneof("data")
                        if kind == "sum":
                            kind += f" {data.aggregation_temporality} {data.is_monotonic}"
                        for point in data.data_points:
                            shape = (kind, metric.unit, point.WhichOneof("value"), scope.scope.name, resource.schema_url)
                            key = (metric.name, of, attributes(point.attributes))
                            out[key] = (shape, point)
        return out


def attributes(pairs):
    return tuple(sorted((p.key, str(getattr(p.value, p.value.WhichOneof("value")))) for p in pairs))


def config(directory, who, sink, name):
    """A configuration that both programs take."""
    scrapers = "".join(f"      {line}\n" for line in (SCRAPERS % name).splitlines())
    path = directory / f"{who}.yaml"
    path.write_text(f"""\
receivers:
  host_metrics:
    collection_interval: 1s
    scrapers:
{scrapers}
exporters:
  otlp_http: {{metrics_endpoint: "{sink.url}/{who}/v1/metrics"}}
service:
  telemetry: {{logs: {{level: warn}}}}
  pipelines:
    metrics: {{receivers: [host_metrics], exporters: [otlp_http]}}
""")
    return path


@pytest.fixture(scope="module")
def measured():
    """What both have measured of this machine."""
    directory = Path(tempfile.mkdtemp(prefix="perigee-host-"))
    sink = Sink()
    agent = programs_directory() / "space-agent"
    name = "collector"  # The Collector itself, which runs as long as both do.
    programs = [
        Process("collector", [HERE / "bin" / "collector", "--config", config(directory, "collector", sink, name)],
                directory, lambda: True),
        Process("space-agent", ["env", f"STATE_DIRECTORY={directory}/state", agent, "run", "--config",
                                config(directory, "perigee", sink, name)], directory, lambda: True),
    ]
    try:
        for program in programs:
            program.start()
        deadline = time.monotonic() + DEADLINE
        # Shares of CPU time are there from the second scrape.
        while not all(
            any(key[0] == "process.cpu.utilization" for key in sink.metrics(who)) for who in sink.requests
        ):
            for program in programs:
                program.must_run()
            assert time.monotonic() < deadline, "\n".join(program.tail() for program in programs)
            time.sleep(0.1)
    finally:
        for program in reversed(programs):
            with contextlib.suppress(Exception):
                program.stop()
        sink.server.shutdown()
    yield sink.metrics("collector"), sink.metrics("perigee")
    shutil.rmtree(directory)


def test_names_units_and_shapes_are_the_collectors(measured):
    theirs, ours = ({(key[0], *shape) for key, (shape, _) in series.items()} for series in measured)
    assert len(theirs) > 40, theirs
    assert ours == theirs


def test_resources_and_attributes_are_the_collectors(measured):
    def series(of):
        out = set()
        for name, resource, points in of:
            # A state in which a process is for a moment, and connections of a state that a moment has, come and go.
            if name == "system.processes.count":
                points = tuple(key for key, _ in points)
            out.add((name, resource, points))
        # gopsutil has other names for two states than the Collector lists, which it then reports twice.
        return {s for s in out if ("state", "FIN_WAIT1") not in s[2] and ("state", "FIN_WAIT2") not in s[2]}

    theirs, ours = (series(keys) for keys in measured)
    assert ours - theirs == set()
    assert theirs - ours == set()


def test_what_holds_still_has_the_collectors_value_and_start(measured):
    theirs, ours = measured
    compared = set()
    for key, (_, point) in theirs.items():
        name = key[0]
        if name not in STEADY or key not in ours:
            continue
        mine = ours[key][1]
        value = lambda p: getattr(p, p.WhichOneof("value"))
        expected = value(point) / (4096 if name in MULTIPLIED else 1)
        # A series of a few counts may double in a second.
        allowed = max(STEADY[name] * abs(expected), 100 if STEADY[name] else 0)
        if name in {"system.disk.io", "system.network.io", "system.filesystem.usage", "process.memory.virtual"}:
            allowed = max(allowed, 64 << 20)
        assert abs(value(mine) - expected) <= allowed, (key, value(mine), expected)
        # Both take the start of the machine, or of the process, from the kernel: whole seconds, or hundredths.
        assert abs(mine.start_time_unix_nano - point.start_time_unix_nano) <= 2_000_000_000, key
        compared.add(name)
    assert compared >= set(STEADY) - {"system.cpu.physical.count", "system.disk.io", "system.disk.operations"}, compared
