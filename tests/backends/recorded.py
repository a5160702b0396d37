"""Requests as bytes: those that the OpenTelemetry SDKs for Python and Go send, and made ones with all that OTLP has."""

import contextlib
import gzip
import http.server
import os
import random
import shlex
import subprocess
import threading
import time

import grpc
from client import Client, http_exporters
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1 import metrics_pb2 as m
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from stack import DEADLINE, HERE, fetch

METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
ANSWERS = {"traces": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse, "logs": ExportLogsServiceResponse}


def value(of):
    """An attribute's value of any kind that OTLP has."""
    match of:
        case bool():
            return AnyValue(bool_value=of)
        case int():
            return AnyValue(int_value=of)
        case float():
            return AnyValue(double_value=of)
        case bytes():
            return AnyValue(bytes_value=of)
        case list():
            return AnyValue(array_value=ArrayValue(values=map(value, of)))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=attributes(of)))
        case None:
            return AnyValue()
    return AnyValue(string_value=of)


def attributes(of):
    return [KeyValue(key=key, value=value(each)) for key, each in of.items()]


EVERY_KIND = {
    "text": "größer 🛰", "empty": "", "yes": True, "no": False, "zero": 0, "lowest": -(2**63), "real": 2.5, "tiny": 5e-324,
    "bytes": b"\x00\xff\x10", "list": ["a", 1, True, 2.5, ["b"]], "map": {"x": 1, "y": {"z": "deep"}}, "nothing": None,
    "http.response.status_code": 503,
}


def resource(service, **more):
    return Resource(attributes=attributes({"service.name": service, **more}), dropped_attributes_count=2)


SCOPE = InstrumentationScope(name="perigee.made", version="1.2.3", attributes=attributes({"mode": "safe", "n": 7}), dropped_attributes_count=1)
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"


def made_traces(rng, base_ns):
    """A trace with every field of a span, and one of a service without a version."""
    trace_id, parent = rng.randbytes(16), rng.randbytes(8)

    def span(n, **more):
        start = base_ns + n * 1_234_567
        defaults = dict(trace_id=trace_id, span_id=rng.randbytes(8), parent_span_id=parent, name=f"step {n}", kind=1 + n % 5,
                        start_time_unix_nano=start, end_time_unix_nano=start + n * 999_983)
        return Span(**(defaults | more))

    spans = [
        span(0, span_id=parent, parent_span_id=b"", attributes=attributes(EVERY_KIND)),
        span(1, status=Status(code=2, message="no star in view"), trace_state="a=1,b=2", flags=0x101),
        span(2, status=Status(code=1), dropped_attributes_count=3, dropped_events_count=4, dropped_links_count=5),
        span(3, events=[
            Span.Event(time_unix_nano=base_ns + 1, name="exception", attributes=attributes(EVERY_KIND)),
            Span.Event(time_unix_nano=base_ns + 2, name="", dropped_attributes_count=1),
        ]),
        span(4, links=[Span.Link(trace_id=rng.randbytes(16), span_id=rng.randbytes(8), trace_state="c=3", attributes=attributes({"why": "batch"}))]),
        span(5, name="", kind=0),
        span(6, end_time_unix_nano=base_ns),  # it ends before it begins
    ] + [span(n, attributes=attributes({"n": n, "mode": "nominal"})) for n in range(7, 60)]
    whole = ResourceSpans(resource=resource("made", **{"host.name": "obc-1"}), schema_url=SCHEMA,
                          scope_spans=[ScopeSpans(scope=SCOPE, spans=spans[:30], schema_url=SCHEMA), ScopeSpans(spans=spans[30:])])
    bare = ResourceSpans(resource=resource("bare"), scope_spans=[ScopeSpans(spans=[span(n) for n in range(60, 70)])])
    return ExportTraceServiceRequest(resource_spans=[whole, bare])


def made_metrics(rng, base_ns):
    """Every kind of metric, with several points each."""
    def points(make, count=5):
        return [make(base_ns + n * 1_000_000_000, n) for n in range(count)]

    start = base_ns - 1_000_000_000
    at = lambda time_ns, **more: dict(start_time_unix_nano=start, time_unix_nano=time_ns, **more)
    exemplar = m.Exemplar(time_unix_nano=base_ns, as_double=0.5, span_id=rng.randbytes(8), trace_id=rng.randbytes(16),
                          filtered_attributes=attributes({"user": "ground"}))
    where = [attributes({"wheel": w, "ok": True}) for w in range(3)]
    bounds = [0.1, 1.0, 10.0]
    metrics = [
        m.Metric(name="made.temperature", unit="Cel", description="of a wheel", gauge=m.Gauge(data_points=[
            p for of in where for p in points(lambda t, n: m.NumberDataPoint(**at(t), as_double=20.5 + n, attributes=of))])),
        m.Metric(name="made.count", unit="1", gauge=m.Gauge(data_points=points(lambda t, n: m.NumberDataPoint(**at(t), as_int=n - 2)))),
        m.Metric(name="made.commands", unit="{command}", sum=m.Sum(aggregation_temporality=2, is_monotonic=True, data_points=points(
            lambda t, n: m.NumberDataPoint(**at(t), as_int=n * 10, exemplars=[exemplar])))),
        m.Metric(name="made.queue", sum=m.Sum(aggregation_temporality=2, data_points=points(
            lambda t, n: m.NumberDataPoint(**at(t), as_double=10.0 - n)))),
        m.Metric(name="made.latency", unit="s", histogram=m.Histogram(aggregation_temporality=2, data_points=points(
            lambda t, n: m.HistogramDataPoint(**at(t), count=4 + 4 * n, sum=3.5 + n, bucket_counts=[1 + n] * 4, explicit_bounds=bounds,
                                              min=0.01, max=12.0, exemplars=[exemplar])))),
        m.Metric(name="made.size", unit="By", exponential_histogram=m.ExponentialHistogram(aggregation_temporality=2, data_points=points(
            lambda t, n: m.ExponentialHistogramDataPoint(**at(t), count=7 + n, sum=40.0 + n, scale=2, zero_count=1, zero_threshold=0.001,
                positive=m.ExponentialHistogramDataPoint.Buckets(offset=3, bucket_counts=[1, 2, 0, 3 + n]),
                negative=m.ExponentialHistogramDataPoint.Buckets(offset=1))))),
        m.Metric(name="made.summary", summary=m.Summary(data_points=points(
            lambda t, n: m.SummaryDataPoint(**at(t), count=10 + n, sum=5.0, quantile_values=[
                m.SummaryDataPoint.ValueAtQuantile(quantile=q, value=q * n) for q in (0.0, 0.5, 0.99, 1.0)])))),
        m.Metric(name="made.stale", gauge=m.Gauge(data_points=points(
            lambda t, n: m.NumberDataPoint(**at(t), flags=1) if n == 3 else m.NumberDataPoint(**at(t), as_int=n)))),
    ]
    of = resource("made", **{"service.namespace": "flight", "service.instance.id": "obc-1", "host.name": "obc-1"})
    return ExportMetricsServiceRequest(resource_metrics=[
        m.ResourceMetrics(resource=of, schema_url=SCHEMA, scope_metrics=[m.ScopeMetrics(scope=SCOPE, metrics=metrics, schema_url=SCHEMA)])])


def late_metrics(base_ns):
    """Requests of a service whose points are ten minutes apart."""
    of = resource("late", **{"service.instance.id": "obc-2", "deployment.environment.name": "orbit"})
    for n in range(6):
        at = dict(start_time_unix_nano=base_ns, time_unix_nano=base_ns + n * 600_000_000_000)
        metrics = [
            m.Metric(name="late.temperature", unit="Cel", gauge=m.Gauge(data_points=[m.NumberDataPoint(**at, as_double=20.5 + n)])),
            m.Metric(name="late.commands", sum=m.Sum(aggregation_temporality=2, is_monotonic=True, data_points=[
                m.NumberDataPoint(**at, as_int=n * 10)])),
            m.Metric(name="late.latency", unit="s", histogram=m.Histogram(aggregation_temporality=2, data_points=[
                m.HistogramDataPoint(**at, count=4 * n, sum=3.5 * n, bucket_counts=[n] * 4, explicit_bounds=[0.1, 1.0, 10.0])])),
        ]
        yield ExportMetricsServiceRequest(resource_metrics=[
            m.ResourceMetrics(resource=of, scope_metrics=[m.ScopeMetrics(scope=SCOPE, metrics=metrics)])])


def made_logs(rng, base_ns):
    """Bodies of every kind, every severity, with and without a span."""
    records = [
        LogRecord(time_unix_nano=base_ns + n, observed_time_unix_nano=base_ns + n + 50, severity_number=n % 25, severity_text=f"S{n % 25}",
                  body=value(body), attributes=attributes({"n": n} | (EVERY_KIND if n % 7 == 0 else {})), event_name=f"event.{n % 3}" if n % 2 else "",
                  trace_id=rng.randbytes(16) if n % 3 else b"", span_id=rng.randbytes(8) if n % 3 else b"", flags=n % 2)
        for n, body in enumerate([*EVERY_KIND.values(), *(f"wheel {n} at {n * 37 % 600} rpm" for n in range(90))])
    ]
    no_time = LogRecord(observed_time_unix_nano=base_ns + 7, body=value("without a time of its own"))
    return ExportLogsServiceRequest(resource_logs=[
        ResourceLogs(resource=resource("made", **{"host.name": "obc-1"}), schema_url=SCHEMA, scope_logs=[ScopeLogs(scope=SCOPE, log_records=records)]),
        ResourceLogs(resource=resource("bare"), scope_logs=[ScopeLogs(log_records=[no_time])])])


def made(seed, base_ns):
    """(signal, bytes) of requests with all that OTLP has."""
    rng = random.Random(seed)
    for signal, make in (("traces", made_traces), ("metrics", made_metrics), ("logs", made_logs)):
        yield signal, make(rng, base_ns).SerializeToString()


@contextlib.contextmanager
def recorder():
    """A server that takes OTLP over HTTP: its port, and the requests that it has taken, (signal, bytes)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            signal = self.path.rsplit("/", 1)[1]
            body = self.body()
            requests.append((signal, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body))
            answer = ANSWERS[signal]().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def body(self):
            if self.headers["transfer-encoding"] != "chunked":
                return self.rfile.read(int(self.headers["content-length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            return body

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], requests
    finally:
        server.shutdown()
        server.server_close()


def of_the_sdk_for_python(port):
    """Three services that call each other."""
    client = Client(lambda: http_exporters(port))
    for number in range(10):
        client.user_request(number)
    client.flush()
    for service in client.services:
        for amount in (3, 4, 5):
            service.count(amount)
    client.shutdown()


def of_other_sdks(port):
    """One service each: Go, and what the lines of PERIGEE_SDKS run."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    for command in [str(HERE / "bin" / "gosdk"), *os.environ.get("PERIGEE_SDKS", "").splitlines()]:
        subprocess.run(shlex.split(command), env=environment, check=True, timeout=DEADLINE)


def record(seed):
    """Everything, in an order that the seed gives."""
    with recorder() as (port, recorded):
        of_the_sdk_for_python(port)
        of_other_sdks(port)
    now = time.time_ns()
    late = [("metrics", request.SerializeToString()) for request in late_metrics(now - 20 * 3600 * 1_000_000_000)]
    requests = [*made(seed, now - 30_000_000_000), *late, *recorded]
    random.Random(seed).shuffle(requests)
    return requests


def replay(requests, grpc_port, http_port):
    """Sends each request as it was recorded, in turns over gRPC and over HTTP."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        for n, (signal, body) in enumerate(requests):
            if n % 2:
                send = channel.unary_unary(METHODS[signal], request_serializer=lambda b: b, response_deserializer=lambda b: b)
                answer = send(body, timeout=10)
            else:
                status, answer = fetch(f"http://127.0.0.1:{http_port}/v1/{signal}", body, {"content-type": "application/x-protobuf"})
                assert status == 200, (signal, status, answer)
            # The Collector sends an empty partial_success.
            assert ANSWERS[signal].FromString(answer).partial_success.ByteSize() == 0, (signal, answer)
