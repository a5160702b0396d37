"""Each compression over both protocols into each backend: everything arrives once, or the exporter says once why it goes without."""

import json
import pathlib
import shutil
import tempfile
import time
import types
import zlib

import pytest
from stack import (
    HERE, Jaeger, Process, Prometheus, VictoriaLogs, VictoriaMetrics, eventually, fetch, free_port, listens, programs_directory,
)

ITEMS = 30
# What the exporter sends when this is configured.
COMPRESSIONS = ["none", "gzip", "zstd", "snappy"]
# What a backend does not take: the exporter says so once and goes on without.
NOT_TAKEN = {("http", "zstd", "prometheus")}


class Backends:
    """All of them; what the Collector gets is in a Jaeger of its own."""

    def __init__(self, directory):
        self.directory = directory
        behind = directory / "behind"
        behind.mkdir()
        self.jaeger, self.behind = Jaeger(directory), Jaeger(behind)
        self.prometheus, self.metrics, self.logs = Prometheus(directory), VictoriaMetrics(directory), VictoriaLogs(directory)
        self.grpc, self.http = free_port(), free_port()
        path = directory / "collector.yaml"
        path.write_text(f"""\
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{self.grpc}"}}, http: {{endpoint: "127.0.0.1:{self.http}"}}}}}}
exporters: {{otlp_grpc: {{endpoint: "127.0.0.1:{self.behind.otlp}", tls: {{insecure: true}}}}}}
service:
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlp_grpc]}}}}
""")
        collector = Process("collector", [HERE / "bin" / "collector", "--config", path], directory,
                            lambda: listens(self.grpc) and listens(self.http))
        self.processes = [self.jaeger, self.behind, self.prometheus, self.metrics, self.logs, collector]


@pytest.fixture(scope="module")
def backends(watch, request):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="perigee-"))
    backends = Backends(directory)
    watch(types.SimpleNamespace(directory=directory, processes=backends.processes))
    try:
        for process in backends.processes[:]:
            process.start()
        yield backends
    finally:
        for process in reversed(backends.processes):
            process.stop()
        if not request.session.testsfailed:
            shutil.rmtree(directory)


def agent(backends, service, protocol, compression):
    """An agent that sends straight to the backends that speak this protocol, and where it listens."""
    http, directory = free_port(), backends.directory / service
    directory.mkdir()
    kind, more = ("otlp_grpc", f"compression: {compression}, tls: {{insecure: true}}") if protocol == "grpc" else (
        "otlp_http", f"compression: {compression}")
    ports = (backends.jaeger.otlp, backends.grpc) if protocol == "grpc" else (backends.jaeger.http, backends.http)
    to = dict(zip(("jaeger", "collector"), (f'endpoint: "http://127.0.0.1:{port}"' for port in ports), strict=True))
    of = {"traces": ["jaeger", "collector"], "metrics": [], "logs": []}
    if protocol == "http":
        to["prometheus"] = f'metrics_endpoint: "{backends.prometheus.base}/api/v1/otlp/v1/metrics"'
        to["metrics"] = f'metrics_endpoint: "{backends.metrics.base}/opentelemetry/v1/metrics"'
        to["logs"] = f'logs_endpoint: "{backends.logs.base}/insert/opentelemetry/v1/logs"'
        of |= {"metrics": ["prometheus", "metrics"], "logs": ["logs"]}
    path = directory / "agent.yaml"
    path.write_text(json.dumps({
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{http}"}}}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
            "pipelines": {
                signal: {"receivers": ["otlp"], "exporters": [f"{kind}/{name}" for name in names]} for signal, names in of.items() if names
            },
            "extensions": ["file_storage"],
        },
        "extensions": {"file_storage": {"directory": str(directory / "log"), "create_directory": True}},
    })[:-1] + ', "exporters": {' + ", ".join(f'"{kind}/{name}": {{{where}, {more}}}' for name, where in to.items()) + "}}\n")
    command = [programs_directory() / "space-agent", "run", "--config", path]
    return Process(service, command, backends.directory, lambda: listens(http)), f"http://127.0.0.1:{http}"


def requests(service):
    """Spans, points and records of a service, in several requests."""
    now = time.time_ns()
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    text = "wheel speed over its limit " * 20
    for n in range(ITEMS):
        at = now - (ITEMS - n) * 1_000_000_000
        yield "traces", {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [{
            "traceId": f"{zlib.crc32(service.encode()):016x}{n + 1:016x}", "spanId": f"{n + 1:016x}", "name": text, "startTimeUnixNano": str(at), "endTimeUnixNano": str(at + 1)}]}]}]}
        yield "metrics", {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [{
            "name": "speed", "description": text, "gauge": {"dataPoints": [{"timeUnixNano": str(at), "asInt": str(n)}]}}]}]}]}
        yield "logs", {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [{
            "timeUnixNano": str(at), "body": {"stringValue": f"{n} {text}"}}]}]}]}


def spans(jaeger, service):
    traces = jaeger.traces(service, 0, int(time.time() * 1e6) + 1).values() if service in jaeger.services() else []
    return sorted(int(span["spanID"], 16) for trace in traces for span in trace["spans"])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_everything_arrives_once(backends, protocol, compression):
    service = f"{protocol}-{compression}"
    process, address = agent(backends, service, protocol, compression)
    backends.processes.append(process)
    process.start()
    signals = ["traces"] if protocol == "grpc" else ["traces", "metrics", "logs"]
    for signal, request in requests(service):
        if signal in signals:
            status, body = fetch(f"{address}/v1/{signal}", json.dumps(request).encode(), {"content-type": "application/json"})
            assert status == 200, body

    def all_there():
        for jaeger in (backends.jaeger, backends.behind):
            assert spans(jaeger, service) == list(range(1, ITEMS + 1))
        if protocol == "http":
            of_service = f'{{job="{service}",__name__="speed"}}'
            values = [float(n) for n in range(ITEMS)]
            in_prometheus = backends.prometheus.query(f"{of_service}[1h]", time.time() + 1)
            assert [[float(value) for _, value in series["values"]] for series in in_prometheus] == [values]
            exported = backends.metrics.samples(f'{{"service.name"="{service}",__name__="speed"}}')
            assert [series["values"] for series in exported] == [values]
            numbers = sorted(int(record["_msg"].split()[0]) for record in backends.logs.query(f'{{service.name="{service}"}}'))
            assert numbers == list(range(ITEMS))

    eventually(backends.processes, all_there)
    process.stop()
    # What it had sent it does not send again when it ends.
    all_there()
    said = [line for line in process.log.read_text().splitlines() if "without compression" in line]
    for name in ("jaeger", "collector", "prometheus", "metrics", "logs"):
        of_it = [line for line in said if f"/{name}" in line]
        assert len(of_it) == ((protocol, compression, name) in NOT_TAKEN), (name, said)
