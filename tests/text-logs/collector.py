"""Writes collector.log: a Collector that receives OTLP and the metrics of this host, and exports to backends of which one is gone, one
fails at times, and one is its own log.

usage: collector.py DIRECTORY
"""

import pathlib
import sys

import capture
from capture import stack


class Collector(stack.Process):
    """The Collector of tests/backends, at its most talkative."""

    def __init__(self, directory, flaky):
        self.http = stack.free_port()
        retry = "{initial_interval: 100ms, max_interval: 1s, max_elapsed_time: 4s}"
        config = directory / "collector.yaml"
        config.write_text(f"""\
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{self.http}"}}}}}}
  hostmetrics:
    collection_interval: 1s
    scrapers: {{cpu: , memory: , load: , disk: , filesystem: , network: , paging: , processes: , process: }}
exporters:
  otlp_grpc/gone:
    endpoint: "127.0.0.1:{stack.free_port()}"
    tls: {{insecure: true}}
    retry_on_failure: {retry}
    sending_queue: {{queue_size: 150, num_consumers: 8, storage: file_storage}}
  otlp_http/flaky: {{endpoint: "{flaky.base}", retry_on_failure: {retry}, sending_queue: {{queue_size: 50}}}}
  debug: {{verbosity: normal}}
  debug/whole: {{verbosity: detailed}}
extensions:
  file_storage: {{directory: {directory}/queue, create_directory: true}}
service:
  extensions: [file_storage]
  telemetry:
    metrics: {{level: none}}
    logs: {{level: debug, encoding: json, sampling: {{enabled: false}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [otlp_grpc/gone, otlp_http/flaky, debug]}}
    metrics: {{receivers: [hostmetrics], exporters: [otlp_grpc/gone, otlp_http/flaky]}}
    metrics/own: {{receivers: [otlp], exporters: [otlp_http/flaky, debug/whole]}}
    logs: {{receivers: [otlp], exporters: [otlp_http/flaky, debug]}}
""")
        command = [capture.BIN / "collector", "--config", f"file:{config}"]
        super().__init__("collector", command, directory, lambda: stack.listens(self.http))


def main():
    with capture.directory() as directory, capture.FlakyBackend() as flaky:
        collector = Collector(directory, flaky)
        with capture.running(collector):
            load = capture.Load(f"http://127.0.0.1:{collector.http}")
            for _ in capture.until(collector, 2_500_000, 60, pace=0.08):
                load.order()
        capture.hand_over(collector, pathlib.Path(sys.argv[1]) / "collector.log")


main()
