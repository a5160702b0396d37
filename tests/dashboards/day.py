"""A simulated day with failures in it, lived by real programs, that Prometheus watches.

"Yesterday" is real: programs run with their wall clock set back (clock.c), write what they write, and are started again with the
right clock. What happens today happens in seconds.
"""

import contextlib
import json
import os
import resource
import shutil
import socket
import time

from machines import Backend, Pki, Prometheus, Satellite, Station, eventually

HOUR = 3600
YESTERDAY = -74 * HOUR  # longer ago than any threshold, so that what waited since then waits too long


def utc(seconds):
    """A time of a plan file."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Day:
    """Everything that runs, and the scenes in order. Times are real; `begun` and `ended` bound what is asked of Prometheus."""

    def __init__(self, programs, directory, say):
        self.dir, self.say = directory, say
        self.agent, self.ground = programs / "space-agent", programs / "ground-station"
        self.pki = Pki(directory, self.ground, YESTERDAY - HOUR)
        self.processes, self.backends, self.sockets = [], [], []
        self.begun = time.time()
        self.ended = None

    def run(self):
        """The day."""
        self.set_the_stage()
        self.yesterday()
        self.morning()
        self.flat_sat()
        self.first_passes()
        self.backends_refuse()
        self.spool_fills_and_breaks()
        self.logs_are_lost()
        self.evening()
        self.ended = time.time()

    def stop(self):
        for process in reversed(self.processes):
            with contextlib.suppress(OSError):
                process.stop()
        for backend in self.backends:
            backend.stop()
        for connection in self.sockets:
            connection.close()

    def start(self, process):
        self.processes.append(process)
        process.start()
        return process

    def backend(self, answer="take"):
        backend = Backend(answer)
        self.backends.append(backend)
        return backend

    def scraped(self):
        """Waits until Prometheus has asked everything twice more."""
        targets = sum(len(targets) for targets in self.prometheus.targets.values())
        for _ in range(2):
            asked = f"count(timestamp(up) > {time.time():.3f}) == {targets}"
            eventually(lambda: self.prometheus.now(asked), "Prometheus asks everything")

    @staticmethod
    def in_contact(satellite):
        return satellite.status()["contact"] is not None

    # Scenes

    def set_the_stage(self):
        self.prometheus = Prometheus(self.dir)
        self.start(self.prometheus)
        self.traces, self.logs = self.backend(), self.backend()
        again = {"retry_on_failure": {"initial_interval": "200ms", "max_interval": "500ms"}}
        crl = self.dir / "satellite.crl"
        self.satellite_crl = crl
        self.pki.issue("satellite", "revoked")
        self.pki.call("revoke", "satellite", "revoked")
        crl.write_bytes((self.pki.directory / "satellite-ca.crl").read_bytes())
        everyone = ["sat-1", "sat-2", "sat-3", "sat-4", "sat-5", "sat-6"]
        self.svalbard = Station(
            self.dir,
            self.ground,
            self.pki,
            "svalbard",
            everyone,
            {
                "otlp_http/traces": {"endpoint": self.traces.endpoint, **again},
                "otlp_http/prometheus": {"endpoint": f"{self.prometheus.base}/api/v1/otlp", **again},
                "otlp_http/logs": {"endpoint": self.logs.endpoint, **again},
                "file/logs": {"path": str(self.dir / "logs.jsonl")},
            },
            {
                "traces": ["otlp_http/traces"],
                "metrics": ["otlp_http/prometheus"],
                "logs": ["otlp_http/logs", "file/logs"],
            },
            storage={"scrub": {"interval": "2s", "rate": "4MiB"}},
            link={"satellite_crl_file": str(crl)},
            shift=YESTERDAY,
        )
        self.dead = self.backend("down")
        self.inuvik = Station(
            self.dir,
            self.ground,
            self.pki,
            "inuvik",
            ["sat-1", "sat-5"],
            {"otlp_http/dead": {"endpoint": self.dead.endpoint, **again}},
            {signal: ["otlp_http/dead"] for signal in ("traces", "metrics", "logs")},
            storage={"max_bytes": "8MiB"},
            link={"max_connections": 1, "partial_sync_bytes": "256KiB"},
        )

    def yesterday(self):
        self.say("yesterday: sat-2 is heard for the last time, sat-1 gathers")
        self.start(self.svalbard)
        for station in (self.svalbard, self.inuvik):
            self.prometheus.scrape("ground-station", station.metrics, station=station.id)
        self.sat_2 = Satellite(self.dir, self.agent, self.pki, "sat-2", [self.svalbard], days=20, shift=YESTERDAY)
        self.start(self.sat_2)
        self.sat_2.everything()
        with self.sat_2.contact(self.svalbard):
            eventually(lambda: self.sat_2.metric("perigee_delivered_spans_total") == 50, "sat-2 delivers")
        self.sat_2.stop()
        lanes = {
            "alarms": {"number": 1, "match": [{"severity": "error"}], "timeout": "0s"},
            "beacons": {"number": 3, "match": [{"resource_attributes": {"service.name": "beacon*"}}], "lifetime": "5s"},
        }
        self.sat_1 = Satellite(
            self.dir,
            self.agent,
            self.pki,
            "sat-1",
            [self.svalbard, self.inuvik],
            lanes=lanes,
            batch={"max_hold_back": "256KiB", "send_batch_bytes": "256KiB"},
            shift=YESTERDAY,
        )
        self.start(self.sat_1)
        for _ in range(4):
            self.sat_1.everything()
        assert self.sat_1.logs(40, severity=17) == 200
        for _ in range(4):
            assert self.sat_1.logs(20, size=20_000) == 200
        with self.sat_1.contact(self.svalbard):
            eventually(lambda: self.sat_1.metric("perigee_delivered_spans_total") > 0, "sat-1 delivers")
        for _ in range(8):
            assert self.sat_1.logs(20, size=20_000) == 200
        assert self.sat_1.logs(10, severity=17) == 200
        eventually(lambda: self.sat_1.metric("perigee_wal_segments") > 4, "sat-1 seals what waits")
        self.sat_1.stop()
        self.svalbard.stop()

    def morning(self):
        self.say("morning: everything starts, with the right time but for sat-5")
        self.svalbard.shift = self.sat_1.shift = 0
        self.sat_1.start()
        self.prometheus.scrape("space-agent", self.sat_1.metrics, satellite="sat-1")
        # A pass that carries nothing of 2 MB, since the station is not there yet, and one that may carry a quarter.
        self.sat_1.say("contact", "open", "svalbard", "--for", "14s", "--rate-down", "2Mbit/s")
        failed = "perigee_link_failed_attempts_total"
        eventually(lambda: self.sat_1.metric(failed) > 0, "svalbard does not answer")
        eventually(lambda: not self.in_contact(self.sat_1), "the contact is over")
        self.svalbard.start()
        self.start(self.inuvik)
        with self.sat_1.contact(self.svalbard, "--byte-budget", "500kB"):
            short = "perigee_satellite_last_pass_fill_ratio{satellite='sat-1'} < 0.5"
            eventually(lambda: self.prometheus.now(short), "the pass without a station is known")
            self.scraped()
        assert self.sat_1.logs(30, service="beacon-1") == 200
        self.plan = self.dir / "plan.yaml"
        # Its contacts are planned in the evening, however long the day takes; until then one is far ahead.
        self.plan_contacts(time.time() + HOUR)
        self.sat_4 = Satellite(
            self.dir,
            self.agent,
            self.pki,
            "sat-4",
            [self.svalbard],
            contacts={"source": "plan", "file": str(self.plan)},
            storage={"max_bytes": "4MiB"},
            batch={"max_hold_back": "256KiB", "send_batch_bytes": "512KiB"},
        )
        self.sat_5 = Satellite(
            self.dir,
            self.agent,
            self.pki,
            "sat-5",
            [self.svalbard, self.inuvik],
            shift=120,
            batch={"max_hold_back": "64KiB"},
        )
        self.sat_6 = Satellite(
            self.dir,
            self.agent,
            self.pki,
            "sat-6",
            [self.svalbard],
            storage={"volatile": "accept"},
            memory_limiter={"limit": "64MiB"},
        )
        for satellite in (self.sat_4, self.sat_5, self.sat_6):
            self.start(satellite)
        self.sat_4_began = time.time()
        for satellite in (self.sat_4, self.sat_5, self.sat_6):
            self.prometheus.scrape("space-agent", satellite.metrics, satellite=satellite.id)
        while self.sat_4.logs(20, size=10_000) == 200:
            pass
        self.sat_6.everything()
        store = self.dir / "sat-6"
        shutil.rmtree(store)
        store.write_text("no directory")
        eventually(lambda: self.sat_6.spans(1) != 200, "nothing is accepted without a store")

    def flat_sat(self):
        self.say(
            "a satellite on the bench: a clock that is wrong, backends that refuse, too little memory, clients that hold connections"
        )
        self.station_crl = crl = self.dir / "station.crl"
        crl.write_bytes((self.pki.directory / "station-ca.crl").read_bytes())
        refusing, dead = self.backend("refuse"), self.backend("down")
        again = {"retry_on_failure": {"initial_interval": "200ms", "max_interval": "500ms"}}
        self.sat_3 = Satellite(
            self.dir,
            self.agent,
            self.pki,
            "sat-3",
            [self.svalbard],
            days=5,
            shift=-30 * 24 * HOUR,
            exporters={
                "otlp_http/bench": {"endpoint": refusing.endpoint, **again},
                "otlp_http/dead": {"endpoint": dead.endpoint, **again},
            },
            # An agent at rest holds about 3.6 MB: 80 % of this.
            memory_limiter={"limit": "4400KiB", "spike_limit": "4MiB", "max_in_flight": "2MiB"},
            otlp={"max_request_bytes": "1MiB"},
            http={"max_connections": 2},
            link={"station_crl_file": str(crl)},
        )
        self.start(self.sat_3)
        self.prometheus.scrape("space-agent", self.sat_3.metrics, satellite="sat-3")
        self.scraped()
        eventually(lambda: self.sat_3.spans(10) == 200, "one request at a time is taken")
        large = b"{}" + b" " * (2 << 20)
        counted = "perigee_receiver_refused_requests_total"
        eventually(lambda: self.sat_3.post("traces", large) and self.sat_3.metric(counted) > 0, "too large is refused")
        assert self.sat_1.post("traces", b"no protobuf", "application/x-protobuf") == 400
        # Slow senders at once: above the limit one is taken and the others come again later.
        for _ in range(2):
            connection = socket.create_connection(("127.0.0.1", self.sat_3.http))
            head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n\r\n{"
            connection.sendall(head.encode() + b" " * 400_000)
            self.sockets.append(connection)
        refused = "otelcol_processor_memory_limiter_refused_requests_total"
        eventually(lambda: self.sat_3.metric(refused) > 0, "the limiter refuses")
        for connection in self.sockets:
            connection.close()
        self.sockets = [socket.create_connection(("127.0.0.1", self.sat_3.http)) for _ in range(3)]
        eventually(lambda: self.sat_3.metric("perigee_connections_closed_silent_total") > 0, "a silent connection is closed")

    def first_passes(self):
        self.say("first passes: what gathered yesterday comes down; a stranger knocks")
        assert self.sat_1.logs(5, severity=17) == 200
        lifetime = "perigee_dropped_items_total{satellite='sat-1',signal='logs',reason='lifetime'} == 30"
        eventually(lambda: self.prometheus.now(lifetime), "beacons are dropped when they are 5 s old", deadline=120)
        with self.sat_3.contact(self.svalbard):
            eventually(lambda: self.heard("sat-3"), "sat-3 is heard")
        with self.sat_1.contact(self.svalbard, "--rate-down", "100kbit/s"):
            eventually(lambda: self.sat_1.metric("perigee_link_connected") == 1, "sat-1 is in contact")
            self.scraped()
        stranger = Satellite(self.dir, self.agent, self.pki, "stranger", [self.svalbard])
        self.start(stranger)
        with stranger.contact(self.svalbard):
            eventually(lambda: self.prometheus.now("perigee_link_refused_total > 0"), "the stranger is refused")
        stranger.stop()
        with self.sat_1.contact(self.svalbard):
            eventually(lambda: self.sat_1.metric("perigee_wal_segments") == 0, "sat-1 delivers everything")
            self.scraped()

    def heard(self, satellite):
        return self.prometheus.now(f"perigee_satellite_connected{{station='svalbard',satellite='{satellite}'}}")

    def backends_refuse(self):
        self.say("backends: one refuses for good, one rejects a part, one is down")
        self.logs.answer, self.traces.answer = "refuse", "reject"
        self.sat_1.everything(20)
        with self.sat_1.contact(self.svalbard):
            eventually(lambda: self.sat_1.metric("perigee_wal_segments") == 0, "sat-1 delivers")
            dead = lambda: self.prometheus.now("perigee_spool_dead_letters{station='svalbard'} > 0")  # noqa: E731
            eventually(dead, "what the backend refuses becomes a dead letter")
            self.traces.answer = "down"
            self.sat_1.everything(20)
            self.sat_1.logs(5, severity=17)
            stuck = "increase(perigee_exporter_retries_total{exporter='otlp_http/traces'}[10s]) > 3"
            eventually(lambda: self.prometheus.now(stuck), "requests are sent again and again")
        self.logs.answer = self.traces.answer = "take"

    def spool_fills_and_breaks(self):
        self.say("inuvik: its backend is down, its spool fills, its disk breaks")
        for _ in range(30):
            assert self.sat_1.logs(20, size=15_000) == 200
        metric = lambda name: self.prometheus.now(f"{name}{{station='inuvik'}} > 0")  # noqa: E731
        with self.sat_1.contact(self.inuvik):
            eventually(lambda: metric("perigee_spool_full"), "the spool of inuvik is full")
            self.scraped()
        file = self.inuvik.home / "spool.redb"
        self.inuvik.kill()
        self.damage(file)
        self.inuvik.start()
        eventually(lambda: metric("perigee_spool_quarantined"), "a damaged spool is put aside")
        for _ in range(4):
            self.inuvik.stop()
            self.inuvik.start()
            eventually(lambda: metric("otelcol_process_uptime"), "inuvik is scraped")
            self.scraped()
        self.inuvik.stop()

    def damage(self, file):
        """Something in every page but the first is wrong: no commit is left that a store could go back to."""
        length = file.stat().st_size
        with file.open("r+b") as open_file:
            for at in range(4096, length, 4096):
                open_file.seek(at + 100)
                open_file.write(os.urandom(64))

    def logs_are_lost(self):
        self.say("sat-5: its log is put back to an older state, then it is gone; a revocation list is damaged")
        sat = self.sat_5
        log, copy = sat.home, self.dir / "sat-5-copy"
        sealed = lambda: sat.metric("perigee_wal_segments") > 0  # noqa: E731
        self.gather(sat)
        sat.stop()
        shutil.copytree(log, copy)
        sat.start()
        self.gather(sat)
        with sat.contact(self.svalbard):
            eventually(lambda: not sealed(), "sat-5 delivers")
            self.scraped()
        sat.stop()
        shutil.rmtree(log)
        copy.rename(log)
        sat.start()
        self.gather(sat)
        with sat.contact(self.svalbard):
            conflict = "perigee_link_conflicts_total{satellite='sat-5'} > 0"
            eventually(lambda: self.prometheus.now(conflict), "a conflict is counted")
            eventually(lambda: not sealed(), "sat-5 delivers in a new epoch")
            self.scraped()
        self.gather(sat)
        sat.stop()
        (log / "wal.redb").unlink()
        sat.start()
        for _ in range(6):  # more than ever before
            self.gather(sat)
        with sat.contact(self.svalbard):
            lost = "perigee_satellite_gap_items{satellite='sat-5',reason='corruption'} > 0"
            eventually(lambda: self.prometheus.now(lost), "what was lost is a gap")
            self.scraped()
        self.satellite_crl.write_text("no list")
        self.station_crl.write_text("no list")
        with self.sat_3.contact(self.svalbard):
            unusable = "count(perigee_link_revocation_list_unusable == 1) == 2"
            eventually(lambda: self.prometheus.now(unusable), "both notice that their list is damaged")

    def gather(self, satellite):
        """Some data, sealed in at least one more segment."""
        before = satellite.metric("perigee_segments_sealed_total")
        for _ in range(3):
            assert satellite.logs(10, size=8_000) == 200
        eventually(lambda: satellite.metric("perigee_segments_sealed_total") > before, f"{satellite.id} seals")

    def plan_contacts(self, aos):
        """Two contacts of sat-4, which reads its plan again."""
        contact = {"station": "svalbard", "rate_down": "256kbit/s"}
        contacts = [contact | {"start": utc(aos + at), "end": utc(aos + at + 12)} for at in (0, 20)]
        written = self.plan.with_suffix(".new")
        written.write_text(json.dumps({"contacts": contacts}))
        written.rename(self.plan)

    def evening(self):
        self.say("evening: sat-4 fills up, is heard once and misses its next contact; sat-6 runs without a store")
        # A forecast needs a minute of growth.
        self.aos = max(time.time() + 5, self.sat_4_began + 62)
        self.plan_contacts(self.aos)
        eventually(lambda: self.heard("sat-4"), "the contact of sat-4's plan", deadline=120)
        eventually(lambda: time.time() > self.aos + 13, "it is over")
        self.sat_4.kill()
        with self.sat_1.contact(self.svalbard):
            drift = "perigee_satellite_clock_drift_ppm{satellite='sat-1'}"
            eventually(lambda: self.prometheus.now(drift), "the drift of sat-1 is known")
        self.svalbard_breaks()
        volatile = lambda: self.sat_6.spans(1) and self.sat_6.metric("perigee_store_volatile") == 1  # noqa: E731
        eventually(volatile, "sat-6 goes on in memory", deadline=150)
        self.sat_6.everything()
        missed = "perigee_satellite_next_contact_timestamp_seconds{satellite='sat-4'}"
        eventually(lambda: self.prometheus.now(f"time() - {missed} > 65"), "a contact was missed", deadline=120)
        self.scraped()

    def svalbard_breaks(self):
        """A disk that takes no more, as the kernel's limit of a file's size looks to a program, until somebody mends it."""
        everything = resource.RLIM_INFINITY
        pid = self.svalbard.child.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 << 10, everything))
        self.sat_1.everything()
        with self.sat_1.contact(self.svalbard):
            fails = "perigee_store_failing{station='svalbard'} == 1 and up == 1"
            eventually(lambda: self.prometheus.now(fails), "the spool of svalbard fails, and its metrics say so")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (everything, everything))
        works = "perigee_spool_failing{station='svalbard'} == 0 and up == 1"
        eventually(lambda: self.prometheus.now(works), "it works again")
