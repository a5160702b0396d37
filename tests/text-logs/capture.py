"""What the captures of programs share: a directory for one capture, programs that run until it ends, a backend that fails at times,
and a load of OTLP. The programs and how they are started are those of the tests with backends.
"""

import contextlib
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "backends"))
import stack  # noqa: E402

BIN = stack.HERE / "bin"
SERVICES = ("frontend", "cart", "payments", "shipping")


@contextlib.contextmanager
def directory():
    """A directory for the files of one capture, removed at the end, also when the capture is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Short, since unix socket paths are.
    made = pathlib.Path(tempfile.mkdtemp(prefix="perigee-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextlib.contextmanager
def running(*processes):
    """Starts processes in this order, and stops them in the other."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in reversed(processes):
            process.stop()


def until(process, size, seconds, pace=0.01):
    """Goes round until the log of a process has so many bytes, at most so many seconds, with a pause of `pace` seconds after each round."""
    never, deadline = threading.Event(), time.monotonic() + seconds
    while process.log.stat().st_size < size and time.monotonic() < deadline:
        process.must_run()
        yield
        never.wait(pace)


def hand_over(process, file):
    """Puts the log of a process that has ended at its place."""
    shutil.copyfile(process.log, file)


class FlakyBackend(http.server.ThreadingHTTPServer):
    """A backend that takes most requests, refuses some, and hangs up on others. As a context it serves."""

    daemon_threads = True

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status = random.choices([200, 503, 429, 400, 500, None], [70, 10, 8, 4, 4, 4])[0]
            if status is None:
                self.close_connection = True
                return
            answer = b"" if status == 200 else f"status {status}, request {random.getrandbits(32):08x}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    def __init__(self, handler=Handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is none of our business."""


def attributes(**values):
    """Attributes as OTLP/JSON has them."""

    def any_value(value):
        return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}

    return [{"key": key.replace("_", "."), "value": any_value(value)} for key, value in values.items()]


class Load:
    """A shop of four services: each order is a trace through them, with log records and, now and then, data points."""

    def __init__(self, base, only=("traces", "logs", "metrics")):
        self.base, self.only, self.orders, self.traces = base, only, 0, []

    def order(self):
        """Sends what one order leaves behind."""
        trace, parent, now = os.urandom(16).hex(), "", time.time_ns()
        self.orders += 1
        self.traces = [*self.traces[-99:], trace]
        spans, records = [], []
        for depth, service in enumerate(SERVICES[: random.randint(1, 4)]):
            span, failed = os.urandom(8).hex(), random.random() < 0.05
            took = int(random.expovariate(1 / 2e6)) + 10_000
            spans.append((service, {
                "traceId": trace, "spanId": span, "parentSpanId": parent, "name": f"{service}.{random.choice(['get', 'put'])}",
                "kind": 2, "startTimeUnixNano": str(now + depth * 10_000), "endTimeUnixNano": str(now + depth * 10_000 + took),
                "attributes": attributes(user_id=random.randrange(3000), http_status=500 if failed else 200),
                "status": {"code": 2, "message": "deadline exceeded"} if failed else {},
            }))
            records.append((service, {
                "timeUnixNano": str(now + took), "severityNumber": 17 if failed else 9, "traceId": trace, "spanId": span,
                "body": {"stringValue": f"order {self.orders} {'failed' if failed else 'done'} in {took / 1e6:.3f} ms"},
            }))
            parent = span
        self.send("traces", "resourceSpans", "scopeSpans", "spans", spans)
        self.send("logs", "resourceLogs", "scopeLogs", "logRecords", records)
        if self.orders % 10 == 0:
            point = {"timeUnixNano": str(now), "startTimeUnixNano": "1", "asInt": str(self.orders)}
            total = {"dataPoints": [point], "aggregationTemporality": 2, "isMonotonic": True}
            self.send("metrics", "resourceMetrics", "scopeMetrics", "metrics", [(SERVICES[0], {"name": "orders", "sum": total})])

    def send(self, path, resources, scopes, items, of_services):
        """One request, of a signal that is wanted; a refusal is an answer too."""
        if path not in self.only:
            return
        body = {resources: [
            {"resource": {"attributes": attributes(service_name=service)}, scopes: [{items: [item]}]}
            for service, item in of_services
        ]}
        stack.fetch(f"{self.base}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
