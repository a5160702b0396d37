// A service instrumented with the OpenTelemetry SDK for Go. It makes traces, metrics and log records, sends them over OTLP/HTTP to
// OTEL_EXPORTER_OTLP_ENDPOINT, and ends when all of it was taken. test_parity.py records its requests.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	spans, err := otlptracehttp.New(ctx)
	if err != nil {
		return err
	}
	points, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return err
	}
	records, err := otlploghttp.New(ctx)
	if err != nil {
		return err
	}
	of := resource.NewSchemaless(attribute.String("service.name", "go-service"), attribute.StringSlice("wheels", []string{"x", "y", "z"}))
	traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(of))
	// Exponential histograms beside explicit ones.
	base2 := sdkmetric.NewView(
		sdkmetric.Instrument{Name: "go.payload"},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}},
	)
	reader := sdkmetric.NewPeriodicReader(points, sdkmetric.WithInterval(time.Hour))
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(of), sdkmetric.WithView(base2))
	logs := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(records)), sdklog.WithResource(of))

	tracer := traces.Tracer("go.test", trace.WithInstrumentationVersion("0.1.0"))
	meter := metrics.Meter("go.test")
	logger := logs.Logger("go.test")
	requests, err := meter.Int64Counter("go.requests", metric.WithUnit("{request}"))
	if err != nil {
		return err
	}
	latency, err := meter.Float64Histogram("go.latency", metric.WithUnit("s"))
	if err != nil {
		return err
	}
	payload, err := meter.Int64Histogram("go.payload", metric.WithUnit("By"))
	if err != nil {
		return err
	}
	for n := range 20 {
		within, root := tracer.Start(ctx, fmt.Sprintf("request %d", n), trace.WithSpanKind(trace.SpanKindServer))
		within, call := tracer.Start(within, "read", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.Int("n", n)))
		route := metric.WithAttributes(attribute.String("route", []string{"/a", "/b"}[n%2]))
		// Within a span, so that points have exemplars.
		requests.Add(within, 1, route)
		latency.Record(within, float64(n)*0.01, route)
		payload.Record(within, int64(n*n*100), route)
		if n%5 == 0 {
			call.RecordError(errors.New("no star in view"))
			call.SetStatus(codes.Error, "no star in view")
		}
		var record otellog.Record
		record.SetTimestamp(time.Now())
		record.SetSeverity(otellog.SeverityWarn)
		record.SetSeverityText("WARN")
		record.SetBody(attribute.MapValue(attribute.Int("order", n), attribute.String("state", "on backorder")))
		logger.Emit(within, record)
		call.End()
		root.End()
		if n%7 == 0 {
			if err := metrics.ForceFlush(ctx); err != nil {
				return err
			}
			// Prometheus keeps milliseconds and refuses a second value of one, with all of its request if it came through a Collector.
			time.Sleep(2 * time.Millisecond)
		}
	}
	return errors.Join(traces.Shutdown(ctx), metrics.Shutdown(ctx), logs.Shutdown(ctx))
}
