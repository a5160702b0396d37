// A service instrumented with the OpenTelemetry SDK for JavaScript. It sends to OTEL_EXPORTER_OTLP_ENDPOINT, and ends when all was taken.
import { SpanKind, SpanStatusCode, context, trace } from '@opentelemetry/api';
import { SeverityNumber } from '@opentelemetry/api-logs';
import { OTLPLogExporter } from '@opentelemetry/exporter-logs-otlp-proto';
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-proto';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchLogRecordProcessor, LoggerProvider } from '@opentelemetry/sdk-logs';
import { MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';

const resource = resourceFromAttributes({ 'service.name': 'js-service', wheels: ['x', 'y', 'z'] });
const spans = new BasicTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
const reader = new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter(), exportIntervalMillis: 3_600_000 });
const metrics = new MeterProvider({ resource, readers: [reader] });
const logs = new LoggerProvider({ resource, processors: [new BatchLogRecordProcessor({ exporter: new OTLPLogExporter() })] });

const tracer = spans.getTracer('js.test', '0.1.0');
const meter = metrics.getMeter('js.test');
const logger = logs.getLogger('js.test');
const requests = meter.createCounter('js.requests', { unit: '{request}' });
const latency = meter.createHistogram('js.latency', { unit: 's' });
for (let n = 0; n < 20; n += 1) {
  const root = tracer.startSpan(`request ${n}`, { kind: SpanKind.SERVER, attributes: { n, real: 0.5, list: ['a', 'b'], yes: true } });
  const within = trace.setSpan(context.active(), root);
  const call = tracer.startSpan('read', { kind: SpanKind.CLIENT, links: [{ context: root.spanContext() }] }, within);
  requests.add(1, { route: n % 2 ? '/a' : '/b' });
  latency.record(n * 0.01);
  if (n % 5 === 0) {
    call.recordException(new Error('no star in view'));
    call.setStatus({ code: SpanStatusCode.ERROR, message: 'no star in view' });
  }
  logger.emit({ severityNumber: SeverityNumber.WARN, severityText: 'WARN', body: { order: n, parts: ['wheel', null, 2.5] }, context: within });
  call.end();
  root.end();
}
await Promise.all([spans.shutdown(), metrics.shutdown(), logs.shutdown()]);
