"""Real programs of the simulated day: agents, ground stations and Prometheus, and backends that do as they are told.

Processes, ports and HTTP come from tests/backends/stack.py. Configurations are JSON, which is YAML too.
"""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "backends"))

from stack import DEADLINE, Process, answers, fetch, free_port, listens, run  # noqa: E402

CLOCK = HERE / "bin" / "clock.so"


def eventually(check, what, deadline=DEADLINE):
    """Waits until `check` is true; asks again ten times a second."""
    end = time.monotonic() + deadline
    while not check():
        assert time.monotonic() < end, f"after {deadline} s: {what}"
        time.sleep(0.1)


class Clocked(Process):
    """A process whose wall clock is off by `shift` seconds."""

    def __init__(self, name, command, directory, ready, shift=0):
        self.shift = shift
        super().__init__(name, command, directory, ready)
        self.program = self.command

    def start(self):
        shifted = [f"LD_PRELOAD={CLOCK}", f"PERIGEE_TEST_CLOCK={self.shift}"] if self.shift else []
        # A write beyond the limit of a file's size is an error, not the end of the program.
        self.command = ["env", "--ignore-signal=XFSZ", *shifted, *self.program]
        super().start()

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.child = None


class Backend:
    """An OTLP/HTTP backend in this process. `answer` is take, down, refuse or reject."""

    def __init__(self, answer="take"):
        self.answer = answer
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                status, body = backend.says()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf" if status == 200 else "text/plain")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self):
        if self.answer == "reject":  # partial_success {rejected: 1, error_message}
            why = b"one is too old"
            inner = b"\x08\x01\x12" + bytes([len(why)]) + why
            return 200, b"\x0a" + bytes([len(inner)]) + inner
        return {"take": (200, b""), "down": (503, b"later"), "refuse": (400, b"this field is unknown")}[self.answer]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Prometheus(Process):
    """Prometheus with the project's own configuration and rules, asked for every second."""

    def __init__(self, directory):
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.config = directory / "prometheus.yml"
        self.targets = {"ground-station": [], "space-agent": []}
        self.write()
        command = [
            HERE.parent / "backends" / "bin" / "prometheus",
            f"--config.file={self.config}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-otlp-receiver",
            "--web.enable-lifecycle",
        ]
        super().__init__("prometheus", command, directory, lambda: answers(f"{self.base}/-/ready"))

    def write(self):
        """deploy/prometheus.yml with the day's targets in place of its own, and the day's pace."""
        text = (ROOT / "deploy" / "prometheus.yml").read_text()
        text = re.sub(r"scrape_interval: \S+", "scrape_interval: 1s", text)
        text = re.sub(r"evaluation_interval: \S+", "evaluation_interval: 1s", text)
        rules = ROOT / "deploy" / "prometheus" / "rules"
        text, found = re.subn(r"prometheus/rules/(\S+?)\"", rf'{rules}/\1"', text)
        assert found, "deploy/prometheus.yml names its rules"
        for job, targets in self.targets.items():
            lines = "".join(f"      - {json.dumps(target)}\n" for target in targets) or "      []\n"
            pattern = rf"(job_name: {job}\n    static_configs:\n)((?:      - .*\n)+)"
            text, found = re.subn(pattern, lambda found: found.group(1) + lines, text)
            assert found == 1, f"deploy/prometheus.yml has the job {job}"
        self.config.write_text(text)

    def scrape(self, job, port, **labels):
        """From now on this port is scraped."""
        self.targets[job].append({"targets": [f"127.0.0.1:{port}"], "labels": labels})
        self.write()
        status, body = fetch(f"{self.base}/-/reload", data=b"")
        assert status == 200, body

    def ask(self, path, **query):
        status, body = fetch(f"{self.base}/api/v1/{path}", **query)
        answer = json.loads(body)
        assert status == 200 and answer["status"] == "success", f"{query}: {answer.get('error', body)}"
        return answer["data"]

    def now(self, expression):
        """The result of an instant query."""
        return self.ask("query", query=expression)["result"]


class Pki:
    """Certificates that were valid when yesterday began."""

    def __init__(self, directory, program, shift):
        self.directory, self.program, self.shift = directory / "pki", program, shift
        self.call("init", "--domain", "example.org")

    def call(self, command, *arguments):
        clock = ["env", f"LD_PRELOAD={CLOCK}", f"PERIGEE_TEST_CLOCK={self.shift}"] if self.shift else []
        run(*clock, self.program, "pki", command, *arguments, "--dir", self.directory)

    def issue(self, role, name, days=365):
        """Valid for `days` from now on."""
        self.call("issue", role, name, "--days", days - self.shift // 86_400)

    def files(self, role, name):
        prefix = self.directory / f"{role}-{name}"
        return {"certificate_file": f"{prefix}.crt", "private_key_file": f"{prefix}.key"}


class Station(Clocked):
    """A ground-station."""

    def __init__(self, directory, program, pki, name, satellites, exporters, pipelines, storage=None, link=None, shift=0):
        self.id, self.home = name, directory / name
        self.link, api, self.metrics = free_port(socket.SOCK_DGRAM), free_port(), free_port()
        self.api = f"http://127.0.0.1:{api}"
        self.config = directory / f"{name}.yaml"
        pki.issue("station", name)
        self.config.write_text(
            json.dumps(
                {
                    "link": {
                        "station": name,
                        "listen": [f"127.0.0.1:{self.link}"],
                        **pki.files("station", name),
                        "satellite_ca_file": f"{pki.directory}/satellite-ca.crt",
                        "satellites": {satellite: {} for satellite in satellites},
                        **(link or {}),
                    },
                    "exporters": exporters,
                    "storage": {"directory": str(self.home), "max_bytes": "256MiB", "ballast": "1MiB", **(storage or {})},
                    "extensions": {"api": {"endpoint": f"127.0.0.1:{api}"}, "control": {"socket": f"{directory}/{name}.sock"}},
                    "service": {
                        "pipelines": {signal: {"exporters": names} for signal, names in pipelines.items()},
                        "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{self.metrics}"}},
                    },
                },
                indent=1,
            )
        )
        ready = lambda: answers(f"{self.api}/api/v1/spool")  # noqa: E731
        super().__init__(name, [program, "run", "--config", self.config], directory, ready, shift)


class Satellite(Clocked):
    """A space-agent."""

    def __init__(self, directory, program, pki, name, stations, days=365, shift=0, **more):
        self.id, self.home, self.program_file = name, directory / name, program
        self.http, self.metrics = free_port(), free_port()
        self.config = directory / f"{name}.yaml"
        pki.issue("satellite", name, days)
        exporters = {"link": {}, **more.pop("exporters", {})}
        pipeline = {"receivers": ["otlp"], "processors": ["memory_limiter", "batch"], "exporters": list(exporters)}
        limiter, batch = more.pop("memory_limiter", {}), more.pop("batch", {})
        protocol = {"endpoint": f"127.0.0.1:{self.http}", **more.pop("http", {})}
        self.document = {
            "receivers": {"otlp": {"protocols": {"http": protocol}, **more.pop("otlp", {})}},
            "processors": {"memory_limiter": limiter, "batch": batch},
            "exporters": exporters,
            "storage": {"directory": str(self.home), "max_bytes": "64MiB", "ballast": "1MiB", **more.pop("storage", {})},
            "link": {
                **pki.files("satellite", name),
                "station_ca_file": f"{pki.directory}/station-ca.crt",
                "stations": {s.id: {"address": f"127.0.0.1:{s.link}"} for s in stations},
                **more.pop("link", {}),
            },
            "contacts": more.pop("contacts", {"source": "manual"}),
            "extensions": {"control": {"socket": f"{directory}/{name}.sock"}},
            "service": {
                "pipelines": {signal: pipeline for signal in ("traces", "metrics", "logs")},
                "telemetry": {"metrics": {"endpoint": f"127.0.0.1:{self.metrics}"}},
            },
            **more,
        }
        self.config.write_text(json.dumps(self.document, indent=1))
        super().__init__(name, [program, "run", "--config", self.config], directory, lambda: listens(self.http), shift)

    def say(self, *arguments):
        """A command for the running agent."""
        return run(self.program_file, *arguments, "--config", self.config)

    def status(self):
        return json.loads(self.say("status", "--json"))

    @contextlib.contextmanager
    def contact(self, station, *options):
        self.say("contact", "open", station.id, *options)
        yield
        if self.child is not None:
            self.say("contact", "close")

    def metric(self, name):
        """The sum of a metric's samples as the agent shows them now."""
        _, text = fetch(f"http://127.0.0.1:{self.metrics}/metrics")
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text.decode(), re.M)
        return sum(map(float, found))

    def post(self, path, body, form="application/json"):
        """Status of one OTLP/HTTP request."""
        return fetch(f"http://127.0.0.1:{self.http}/v1/{path}", body, {"content-type": form})[0]

    def logs(self, count, service="payload", severity=9, size=0):
        """Log records, each with `size` bytes that do not compress."""
        now = time.time_ns()
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        records = [
            {
                "timeUnixNano": str(now + n),
                "severityNumber": severity,
                "body": {"stringValue": f"record {n} {base64.b64encode(os.urandom(size)).decode()}"},
            }
            for n in range(count)
        ]
        body = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
        return self.post("logs", json.dumps(body).encode())

    def spans(self, count, service="payload"):
        now = time.time_ns()
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        spans = [
            {
                "traceId": os.urandom(16).hex(),
                "spanId": os.urandom(8).hex(),
                "name": "take picture",
                "kind": 2,
                "startTimeUnixNano": str(now),
                "endTimeUnixNano": str(now + 1_000_000),
            }
            for _ in range(count)
        ]
        body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
        return self.post("traces", json.dumps(body).encode())

    def points(self, count, service="payload"):
        now = time.time_ns()
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        points = [{"timeUnixNano": str(now + n * 1_000_000), "asDouble": n} for n in range(count)]
        metrics = [{"name": "battery.voltage", "unit": "V", "gauge": {"dataPoints": points}}]
        body = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": metrics}]}]}
        return self.post("metrics", json.dumps(body).encode())

    def everything(self, count=50):
        """Some of each signal, which the agent must accept."""
        answers = self.spans(count), self.points(count), self.logs(count)
        assert answers == (200, 200, 200), f"{self.id}: {answers}\n{self.tail(20)}"
