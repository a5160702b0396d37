"""The independent client: services instrumented with the OpenTelemetry SDK for Python, which remember what they sent."""

import dataclasses
import math
import time

from grpc import Compression
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

COUNTER = "perigee.test.orders"
PROPAGATOR = TraceContextTextMapPropagator()


def grpc_exporters(port):
    """Exporters of traces, metrics and logs over gRPC, compressed with gzip."""
    to = {"endpoint": f"127.0.0.1:{port}", "insecure": True, "compression": Compression.Gzip}
    return GrpcSpans(**to), GrpcMetrics(**to), GrpcLogs(**to)


def http_exporters(port):
    """Exporters of traces, metrics and logs over HTTP with protobuf bodies."""
    base = f"http://127.0.0.1:{port}/v1/"
    return HttpSpans(base + "traces"), HttpMetrics(base + "metrics"), HttpLogs(base + "logs")


@dataclasses.dataclass(frozen=True)
class SentSpan:
    """A span as a query should show it: times in µs since 1970."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    start_us: int
    duration_us: int


@dataclasses.dataclass(frozen=True)
class SentLog:
    """A log record: time in ns since 1970, ids as lower-case hex."""

    service: str
    body: str
    time_ns: int
    trace_id: str


class Service:
    """One instrumented service. `sent_*` hold what the receiver has acknowledged, in order."""

    def __init__(self, name, exporters):
        self.name = name
        self.late_ns = 0  # how far in the past everything happens
        self.failed = []  # results of exports that were not a success
        self.sent_spans, self.sent_points, self.sent_logs = [], [], []
        resource = Resource.create({"service.name": name})
        spans, metrics, logs = exporters
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(self._watched(spans, self._spans_sent)))
        self.tracer = self._traces.get_tracer("perigee.test")
        reader = PeriodicExportingMetricReader(self._watched(metrics, self._points_sent, self._aged), math.inf)
        self._metrics = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._counter = self._metrics.get_meter("perigee.test").create_counter(COUNTER)
        self._logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(self._watched(logs, self._logs_sent)))
        self._logger = self._logs.get_logger("perigee.test")

    def now(self):
        return time.time_ns() - self.late_ns

    def span(self, name, carrier=None):
        """Starts a span that serves a request, a child of the carrier's span if there is any."""
        context = PROPAGATOR.extract(carrier) if carrier else None
        return self.tracer.start_span(name, context=context, kind=trace.SpanKind.SERVER, start_time=self.now())

    def call(self, name, parent):
        """Starts a span that calls another service, within a span of this one."""
        context = trace.set_span_in_context(parent)
        return self.tracer.start_span(name, context=context, kind=trace.SpanKind.CLIENT, start_time=self.now())

    def count(self, amount):
        """Adds to the counter and exports it, in a millisecond of its own."""
        self._counter.add(amount)
        exported = len(self.sent_points)
        assert self._metrics.force_flush(), f"{self.name}: metrics were not exported"
        assert len(self.sent_points) == exported + 1, f"{self.name}: no point was acknowledged"
        moment = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == moment:
            pass

    def log(self, body, span):
        """Emits a log record within a span."""
        self._logger.emit(
            timestamp=self.now(), body=body, severity_number=SeverityNumber.WARN, severity_text="WARN",
            context=trace.set_span_in_context(span),
        )

    def flush(self):
        assert self._traces.force_flush(), f"{self.name}: traces were not exported"
        assert self._logs.force_flush(), f"{self.name}: logs were not exported"
        assert not self.failed, f"{self.name}: {self.failed}"

    def shutdown(self):
        for provider in (self._traces, self._metrics, self._logs):
            provider.shutdown()

    def _watched(self, exporter, acknowledged, prepare=lambda batch: batch):
        """The exporter, telling `acknowledged` of each batch that the receiver has taken."""
        inner = exporter.export

        def export(batch, *arguments, **named):
            batch = prepare(batch)
            result = inner(batch, *arguments, **named)
            if result.name == "SUCCESS":
                acknowledged(batch)
            else:
                self.failed.append(result)
            return result

        exporter.export = export
        return exporter

    def _spans_sent(self, batch):
        for span in batch:
            self.sent_spans.append(SentSpan(
                trace.format_trace_id(span.context.trace_id),
                trace.format_span_id(span.context.span_id),
                trace.format_span_id(span.parent.span_id) if span.parent else None,
                self.name, span.name, span.start_time // 1000, (span.end_time - span.start_time) // 1000,
            ))

    def _points_sent(self, data):
        for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
            if metric.name == COUNTER:
                self.sent_points += [(p.time_unix_nano // 1_000_000, p.value) for p in metric.data.data_points]

    def _logs_sent(self, batch):
        for record in (each.log_record for each in batch):
            trace_id = trace.format_trace_id(record.trace_id)
            self.sent_logs.append(SentLog(self.name, record.body, record.timestamp, trace_id))

    def _aged(self, data):
        """Metrics have no explicit time in the SDK's interface: moves their points into the past."""

        def aged(item):
            if isinstance(item, list | tuple):
                return [aged(each) for each in item]
            if not dataclasses.is_dataclass(item):
                return item
            changes = {}
            for field in dataclasses.fields(item):
                value = getattr(item, field.name)
                if field.name in ("time_unix_nano", "start_time_unix_nano"):
                    changes[field.name] = value - self.late_ns
                elif field.name in ("resource_metrics", "scope_metrics", "metrics", "data", "data_points"):
                    changes[field.name] = aged(value)
            return dataclasses.replace(item, **changes)

        return aged(data)


class Client:
    """Two front-ends and a back-end. A user request passes all three."""

    def __init__(self, exporters):
        self.front_a, self.front_b, self.backend = (
            Service(name, exporters()) for name in ("front-a", "front-b", "backend")
        )
        self.services = [self.front_a, self.front_b, self.backend]

    def be_late(self, seconds):
        """From now on everything happens so many seconds in the past."""
        for service in self.services:
            service.late_ns = seconds * 1_000_000_000

    def user_request(self, number):
        """One request of a user: front-a asks front-b, which asks the back-end. The trace's id."""
        root = self.front_a.span(f"request {number}")
        hops = [(self.front_a, root)]
        for service in (self.front_b, self.backend):
            caller, span = hops[-1]
            call = caller.call(f"call {service.name}", span)
            carrier = {}
            PROPAGATOR.inject(carrier, trace.set_span_in_context(call))
            hops += [(caller, call), (service, service.span(f"serve {number}", carrier))]
        self.backend.log(f"order {number} is on backorder", hops[-1][1])
        for service, span in reversed(hops):
            span.end(end_time=service.now())
        return trace.format_trace_id(root.get_span_context().trace_id)

    def flush(self):
        for service in self.services:
            service.flush()

    def shutdown(self):
        for service in self.services:
            service.shutdown()

    def spans(self, *trace_ids):
        """The acknowledged spans of these traces."""
        return [span for service in self.services for span in service.sent_spans if span.trace_id in trace_ids]
