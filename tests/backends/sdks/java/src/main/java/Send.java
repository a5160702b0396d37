import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.logs.Severity;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Scope;
import io.opentelemetry.exporter.otlp.http.logs.OtlpHttpLogRecordExporter;
import io.opentelemetry.exporter.otlp.http.metrics.OtlpHttpMetricExporter;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.logs.SdkLoggerProvider;
import io.opentelemetry.sdk.logs.export.BatchLogRecordProcessor;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.export.PeriodicMetricReader;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.BatchSpanProcessor;
import java.time.Duration;
import java.util.List;

/** A service instrumented with the OpenTelemetry SDK for Java. It sends to OTEL_EXPORTER_OTLP_ENDPOINT, and ends when all was taken. */
public final class Send {
  public static void main(String[] arguments) {
    var to = System.getenv("OTEL_EXPORTER_OTLP_ENDPOINT") + "/v1/";
    var resource =
        Resource.create(
            Attributes.of(
                AttributeKey.stringKey("service.name"), "java-service",
                AttributeKey.stringArrayKey("wheels"), List.of("x", "y", "z")));
    var spans = OtlpHttpSpanExporter.builder().setEndpoint(to + "traces").build();
    var points = OtlpHttpMetricExporter.builder().setEndpoint(to + "metrics").build();
    var records = OtlpHttpLogRecordExporter.builder().setEndpoint(to + "logs").build();
    var reader = PeriodicMetricReader.builder(points).setInterval(Duration.ofHours(1)).build();
    try (var sdk =
        OpenTelemetrySdk.builder()
            .setTracerProvider(
                SdkTracerProvider.builder().setResource(resource).addSpanProcessor(BatchSpanProcessor.builder(spans).build()).build())
            .setMeterProvider(SdkMeterProvider.builder().setResource(resource).registerMetricReader(reader).build())
            .setLoggerProvider(
                SdkLoggerProvider.builder()
                    .setResource(resource)
                    .addLogRecordProcessor(BatchLogRecordProcessor.builder(records).build())
                    .build())
            .build()) {
      var tracer = sdk.getTracer("java.test", "0.1.0");
      var meter = sdk.getMeter("java.test");
      var logger = sdk.getLogsBridge().get("java.test");
      var requests = meter.counterBuilder("java.requests").setUnit("{request}").build();
      var latency = meter.histogramBuilder("java.latency").setUnit("s").build();
      for (int n = 0; n < 20; n++) {
        var root = tracer.spanBuilder("request " + n).setSpanKind(SpanKind.SERVER).setAttribute("n", n).startSpan();
        try (Scope within = root.makeCurrent()) {
          var call = tracer.spanBuilder("read").setSpanKind(SpanKind.CLIENT).addLink(root.getSpanContext()).startSpan();
          requests.add(1, Attributes.of(AttributeKey.stringKey("route"), n % 2 == 0 ? "/a" : "/b"));
          latency.record(n * 0.01);
          if (n % 5 == 0) {
            call.recordException(new IllegalStateException("no star in view"));
            call.setStatus(StatusCode.ERROR, "no star in view");
          }
          logger.logRecordBuilder().setSeverity(Severity.WARN).setSeverityText("WARN").setBody("order " + n + " is on backorder").emit();
          call.end();
        } finally {
          root.end();
        }
      }
    }
  }
}
