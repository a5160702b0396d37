"""Real processes for the backend tests: Jaeger, Prometheus, ground-station and space-agent on free ports.

Everything lives in one temporary directory. Each process has a log there, and is ended by its own id.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SATELLITE = "sat-1"
STATION = "svalbard"
DOMAIN = "example.org"
DEADLINE = 60  # seconds until a condition that should hold counts as a failure

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


_given = set()


def free_port(kind=socket.SOCK_STREAM):
    """A port of 127.0.0.1 that nothing uses now, never the same one twice."""
    while True:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def fetch(url, data=None, headers=None, **query):
    """Status and body of one HTTP request; a status of 4xx or 5xx is an answer too."""
    if query:
        url += "?" + urllib.parse.urlencode(query)
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with _opener.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def get_json(url, **query):
    """The JSON answer of a GET, which must be a success."""
    status, body = fetch(url, **query)
    assert status == 200, f"{url} {query}: {status} {body[:500]!r}"
    return json.loads(body)


def listens(port):
    """Whether something accepts connections on a TCP port of 127.0.0.1."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def answers(url):
    """Whether a GET succeeds."""
    with contextlib.suppress(OSError):
        return fetch(url)[0] == 200
    return False


class ProcessEnded(Exception):
    """A process that should run does not."""


class Process:
    """One child process and its log."""

    def __init__(self, name, command, directory, ready):
        self.name = name
        self.command = [str(part) for part in command]
        self.log = directory / f"{name}.log"
        self.ready = ready
        self.child = None

    def start(self):
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command, cwd=self.log.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + DEADLINE
        while not self.ready():
            self.must_run()
            assert time.monotonic() < deadline, f"{self.name} is not ready after {DEADLINE} s\n{self.tail()}"
            time.sleep(0.1)
        self.must_run()

    def must_run(self):
        """Fails if the process ended though nobody stopped it."""
        if self.child is not None and self.child.poll() is not None:
            raise ProcessEnded(f"{self.name} ended with {self.child.returncode}\n{self.tail()}")

    def stop(self):
        child, self.child = self.child, None
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def tail(self, lines=60):
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Jaeger(Process):
    """Jaeger with storage in memory."""

    def __init__(self, directory):
        self.otlp, self.http, api = free_port(), free_port(), free_port()
        self.api = f"http://127.0.0.1:{api}"
        config = directory / "jaeger.yaml"
        config.write_text(f"""\
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{api}"}}
    grpc: {{endpoint: "127.0.0.1:{free_port()}"}}
    enable_tracing: false
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{self.otlp}"}}, http: {{endpoint: "127.0.0.1:{self.http}"}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
service:
  extensions: [jaeger_storage, jaeger_query]
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
""")
        command = [HERE / "bin" / "jaeger", "--config", config]
        super().__init__("jaeger", command, directory, lambda: listens(self.otlp) and answers(f"{self.api}/api/services"))

    def services(self):
        return set(get_json(f"{self.api}/api/services")["data"] or [])

    def traces(self, service, start_us, end_us):
        """Traces with a span of the service in a time range, by trace id."""
        answer = get_json(f"{self.api}/api/traces", service=service, start=start_us, end=end_us, limit=1000)
        assert not answer["errors"], answer["errors"]
        return {trace["traceID"]: trace for trace in answer["data"]}


class Prometheus(Process):
    """Prometheus that takes OTLP, late samples included."""

    def __init__(self, directory):
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        config = directory / "prometheus.yml"
        config.write_text("""\
storage:
  tsdb:
    out_of_order_time_window: 7d
otlp:
  promote_resource_attributes: [satellite.id, ground.station.id]
""")
        command = [
            HERE / "bin" / "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
        ]
        super().__init__("prometheus", command, directory, lambda: answers(f"{self.base}/-/ready"))

    def query(self, expression, at_s):
        """The result of an instant query at a time in seconds."""
        answer = get_json(f"{self.base}/api/v1/query", query=expression, time=f"{at_s:.3f}")
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def exemplars(self, expression, start_s, end_s):
        answer = get_json(f"{self.base}/api/v1/query_exemplars", query=expression, start=f"{start_s:.3f}", end=f"{end_s:.3f}")
        assert answer["status"] == "success", answer
        return answer["data"]

    def query_range(self, expression, start_s, end_s, step_s):
        answer = get_json(
            f"{self.base}/api/v1/query_range",
            query=expression, start=f"{start_s:.3f}", end=f"{end_s:.3f}", step=step_s,
        )
        assert answer["status"] == "success", answer
        return answer["data"]["result"]


class Victoria(Process):
    """A backend of VictoriaMetrics' kind, with a directory and a port."""

    def __init__(self, name, directory):
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        # By default VictoriaMetrics takes nothing once 100 MB are left on the disk, however little it needs itself.
        free = "-storage.minFreeDiskSpaceBytes=1MB"
        command = [HERE / "bin" / name, f"-storageDataPath={directory / name}", f"-httpListenAddr=127.0.0.1:{port}", free]
        super().__init__(name, command, directory, lambda: answers(f"{self.base}/health"))

    def rows(self, path, **query):
        """Everything that matches, as JSON by line, what came last included."""
        assert fetch(f"{self.base}/internal/force_flush")[0] == 200
        status, body = fetch(f"{self.base}{path}", **query)
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]


class VictoriaMetrics(Victoria):
    """VictoriaMetrics, which keeps samples for a month."""

    def __init__(self, directory):
        super().__init__("victoriametrics", directory)

    def samples(self, selector):
        """Every sample that is stored of the series that match, as it was sent: label sets with values and times."""
        return self.rows("/api/v1/export", **{"match[]": selector})


class VictoriaLogs(Victoria):
    """VictoriaLogs, which keeps log records for a week."""

    def __init__(self, directory):
        super().__init__("victorialogs", directory)

    def query(self, expression):
        """Every record that matches, with all of its fields as text."""
        return self.rows("/select/logsql/query", query=expression)


class Ground(Process):
    """ground-station, exporting traces to Jaeger, metrics to Prometheus and logs to a file, or to VictoriaLogs."""

    def __init__(self, directory, program, pki, jaeger, prometheus, victorialogs=None):
        self.link, api = free_port(socket.SOCK_DGRAM), free_port()
        self.api = f"http://127.0.0.1:{api}"
        self.logs = directory / "logs.jsonl"
        config = directory / "ground.yaml"
        retry = "{initial_interval: 500ms, max_interval: 1s}"
        logs = f"file/logs: {{path: {self.logs}}}"
        if victorialogs:
            logs = f'otlphttp/logs: {{endpoint: "{victorialogs.base}/insert/opentelemetry", retry_on_failure: {retry}}}'
        config.write_text(f"""\
link:
  station: {STATION}
  listen: ["127.0.0.1:{self.link}"]
  certificate_file: {pki}/station-{STATION}.crt
  private_key_file: {pki}/station-{STATION}.key
  satellite_ca_file: {pki}/satellite-ca.crt
  satellites: {{{SATELLITE}: {{}}}}
exporters:
  otlp/jaeger: {{endpoint: "http://127.0.0.1:{jaeger.otlp}", retry_on_failure: {retry}}}
  otlphttp/prometheus: {{endpoint: "{prometheus.base}/api/v1/otlp", retry_on_failure: {retry}}}
  {logs}
storage: {{directory: {directory}/ground, max_bytes: 1GiB}}
extensions:
  health_check: {{endpoint: "127.0.0.1:{free_port()}"}}
  api: {{endpoint: "127.0.0.1:{api}"}}
  control: {{socket: {directory}/ground.sock}}
service:
  pipelines:
    traces: {{exporters: [otlp/jaeger]}}
    metrics: {{exporters: [otlphttp/prometheus]}}
    logs: {{exporters: [{logs.split(":")[0]}]}}
  telemetry:
    metrics: {{endpoint: "127.0.0.1:{free_port()}"}}
""")
        command = [program, "run", "--config", config]
        super().__init__("ground-station", command, directory, lambda: answers(f"{self.api}/api/v1/satellites"))


class Agent(Process):
    """space-agent whose contacts are opened by hand."""

    def __init__(self, directory, program, pki, ground, measures_itself=False):
        self.grpc, self.http = free_port(), free_port()
        self.program = program
        self.config = directory / "agent.yaml"
        pipeline = "{receivers: [otlp], processors: [memory_limiter, batch], exporters: [link]}"
        metrics = pipeline.replace("otlp", "otlp, hostmetrics") if measures_itself else pipeline
        hostmetrics = "hostmetrics: {collection_interval: 1s, scrapers: {load: , memory: }}" if measures_itself else ""
        self.config.write_text(f"""\
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{self.grpc}"}}
      http: {{endpoint: "127.0.0.1:{self.http}"}}
  {hostmetrics}
processors: {{memory_limiter: {{}}, batch: {{}}}}
exporters: {{link: {{}}}}
storage: {{directory: {directory}/agent, max_bytes: 256MiB}}
link:
  certificate_file: {pki}/satellite-{SATELLITE}.crt
  private_key_file: {pki}/satellite-{SATELLITE}.key
  station_ca_file: {pki}/station-ca.crt
  stations: {{{STATION}: {{address: "127.0.0.1:{ground.link}"}}}}
contacts: {{source: manual}}
extensions:
  health_check: {{endpoint: "127.0.0.1:{free_port()}"}}
  control: {{socket: {directory}/agent.sock}}
service:
  pipelines: {{traces: {pipeline}, metrics: {metrics}, logs: {pipeline}}}
  telemetry:
    metrics: {{endpoint: "127.0.0.1:{free_port()}"}}
""")
        command = [program, "run", "--config", self.config]
        super().__init__("space-agent", command, directory, lambda: listens(self.grpc) and listens(self.http))

    def command_line(self, *arguments):
        return run(self.program, *arguments, "--config", self.config)

    @contextlib.contextmanager
    def contact(self):
        """A contact with the station, closed at the end if the agent still runs."""
        self.command_line("contact", "open", STATION)
        try:
            yield
        finally:
            if self.child.poll() is None:
                self.command_line("contact", "close")

    def status(self):
        return json.loads(self.command_line("status", "--json"))


def run(*command):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=DEADLINE)
    shown = " ".join(str(part) for part in command)
    assert done.returncode == 0, f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def make_pki(ground_station, directory):
    """Both authorities, and a certificate for the satellite and the station; the folder."""
    pki = directory / "pki"
    run(ground_station, "pki", "init", "--dir", pki, "--domain", DOMAIN)
    run(ground_station, "pki", "issue", "satellite", SATELLITE, "--dir", pki)
    run(ground_station, "pki", "issue", "station", STATION, "--dir", pki)
    return pki


def eventually(processes, check):
    """Waits until `check` raises no AssertionError, as long as every process that was started runs."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        for process in processes:
            process.must_run()
        time.sleep(0.1)


class Stack:
    """All four, wired together."""

    def __init__(self, programs):
        for program in ("space-agent", "ground-station"):
            assert (programs / program).is_file(), f"{programs / program} is missing: run tests/backends.sh"
        # Short, since unix socket paths are.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="perigee-"))
        ground_station = programs / "ground-station"
        pki = make_pki(ground_station, self.directory)
        self.jaeger = Jaeger(self.directory)
        self.prometheus = Prometheus(self.directory)
        self.ground = Ground(self.directory, ground_station, pki, self.jaeger, self.prometheus)
        self.agent = Agent(self.directory, programs / "space-agent", pki, self.ground, measures_itself=True)
        self.processes = [self.jaeger, self.prometheus, self.ground, self.agent]

    def start(self):
        for process in self.processes:
            process.start()

    def stop(self):
        for process in reversed(self.processes):
            process.stop()

    def remove(self):
        shutil.rmtree(self.directory)

    def eventually(self, check):
        return eventually(self.processes, check)


def programs_directory():
    """Where space-agent and ground-station are: PERIGEE_BIN_DIR, or the release build of this tree."""
    given = os.environ.get("PERIGEE_BIN_DIR")
    return pathlib.Path(given).resolve() if given else HERE.parent.parent / "target" / "release"
