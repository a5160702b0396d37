"""Writes jaeger.log: a Jaeger that stores traces, samples them by their ends, forwards them to a backend that is gone and to its own log,
and answers queries.

usage: jaeger.py DIRECTORY
"""

import pathlib
import random
import sys
import time

import capture
from capture import stack


class Jaeger(stack.Process):
    """Jaeger with storage in memory, at its most talkative."""

    def __init__(self, directory):
        self.http, api = stack.free_port(), stack.free_port()
        self.api = f"http://127.0.0.1:{api}"
        config = directory / "jaeger.yaml"
        retry = "{initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 4s}"
        config.write_text(f"""\
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{api}"}}
    grpc: {{endpoint: "127.0.0.1:{stack.free_port()}"}}
    enable_tracing: false
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{self.http}"}}}}}}
processors:
  memory_limiter: {{check_interval: 200ms, limit_mib: 1000}}
  tail_sampling:
    decision_wait: 1s
    policies:
      - {{name: errors, type: status_code, status_code: {{status_codes: [ERROR]}}}}
      - {{name: slow, type: latency, latency: {{threshold_ms: 5}}}}
      - {{name: some, type: probabilistic, probabilistic: {{sampling_percentage: 50}}}}
  batch: {{timeout: 200ms}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
  otlp/gone:
    endpoint: "127.0.0.1:{stack.free_port()}"
    tls: {{insecure: true}}
    retry_on_failure: {retry}
    sending_queue: {{queue_size: 20, num_consumers: 2}}
  debug: {{verbosity: normal}}
  debug/whole: {{verbosity: detailed}}
service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry:
    metrics: {{level: none}}
    logs: {{level: debug, encoding: json, sampling: {{enabled: false}}}}
  pipelines:
    traces: {{receivers: [otlp], processors: [memory_limiter, batch], exporters: [jaeger_storage_exporter, otlp/gone, debug]}}
    traces/sampled: {{receivers: [otlp], processors: [tail_sampling], exporters: [debug/whole]}}
""")
        command = [capture.BIN / "jaeger", "--config", config]
        super().__init__(
            "jaeger", command, directory, lambda: stack.listens(self.http) and stack.answers(f"{self.api}/api/services")
        )

    def query(self, load):
        """Asks for something that is there, or is not, or cannot be."""
        service, now = random.choice(capture.SERVICES), int(time.time() * 1e6)
        path, query = random.choice([
            ("services", {}),
            (f"services/{service}/operations", {}),
            ("traces", {"service": service, "start": now - 10**7, "end": now, "limit": 20}),
            ("traces", {"service": service, "start": "yesterday"}),
            ("traces", {"service": service, "tags": "{"}),
            (f"traces/{random.choice(load.traces)}", {}),
            (f"traces/{random.getrandbits(128):032x}", {}),
            ("traces/none", {}),
            ("dependencies", {"endTs": now // 1000, "lookback": 60_000}),
            ("metrics/latencies", {"service": service, "quantile": 0.95}),
        ])
        stack.fetch(f"{self.api}/api/{path}", **query)


def main():
    with capture.directory() as directory:
        jaeger = Jaeger(directory)
        with capture.running(jaeger):
            load = capture.Load(f"http://127.0.0.1:{jaeger.http}", only=("traces",))
            for _ in capture.until(jaeger, 2_500_000, 75, pace=0.05):
                load.order()
                jaeger.query(load)
        capture.hand_over(jaeger, pathlib.Path(sys.argv[1]) / "jaeger.log")


main()
