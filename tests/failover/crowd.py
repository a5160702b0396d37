"""Many satellites over the stations of deploy/fleet/fleet.sh, in real time: what the ground takes for them, and whether every item arrives once.

Each satellite is a space-agent of its own with a plan: a pass every few minutes, each over the next station. Together they are sent the
same load, however many they are. For each number of satellites a line says what the stations and the exporter took of memory and of the
processor; what was acknowledged on board is compared with what the backend got.
"""

import asyncio
import math
import os
import pathlib
import signal
import sys
import time

from failover import Fleet, command, fleets_arguments, get_json, requests_in

ITEMS = 20  # in a request
DEADLINE = 300  # seconds until everything must have arrived after the last pass that follows the last request
MEMORY = 1536  # MiB that the ground's processes may take together
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """What one process takes."""

    def __init__(self, pid):
        self.directory = pathlib.Path("/proc") / str(pid)

    def seconds(self):
        fields = (self.directory / "stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self):
        lines = (self.directory / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


class Satellite:
    """An agent with a plan, and a connection to it."""

    def __init__(self, crowd, number):
        self.name = f"crowd-{crowd.size}-{number}"
        self.number = number
        self.home = crowd.directory / self.name
        self.home.mkdir()
        self.accepted = 0
        self.reader = self.writer = None
        fleet = crowd.fleet
        pki = fleet.directory / "pki" / "link"
        command(fleet.programs / "ground-station", "pki", "issue", "satellite", self.name, "--dir", pki)
        stations = ", ".join(f'{name}: {{address: "{fleet.address[name]}:4433"}}' for name in crowd.stations)
        (self.home / "plan.yaml").write_text("contacts:\n" + "".join(crowd.passes(number)))
        self.config = self.home / "agent.yaml"
        self.config.write_text(f"""\
receivers: {{otlp: {{protocols: {{http: {{endpoint: "unix://{self.home}/otlp.sock"}}}}}}}}
exporters: {{link: {{}}}}
storage: {{directory: {self.home}/state, max_bytes: 64MiB}}
link:
  certificate_file: {pki}/satellite-{self.name}.crt
  private_key_file: {pki}/satellite-{self.name}.key
  station_ca_file: {pki}/station-ca.crt
  stations: {{{stations}}}
contacts: {{source: plan, file: {self.home}/plan.yaml}}
extensions: {{control: {{socket: {self.home}/agent.sock}}}}
service:
  pipelines: {{logs: {{receivers: [otlp], exporters: [link]}}}}
  telemetry: {{otlp: {{enabled: false}}}}
""")

    async def start(self, program):
        with (self.home / "agent.log").open("wb") as log:
            self.child = await asyncio.create_subprocess_exec(program, "run", "--config", self.config, stdout=log, stderr=log)
        while not (self.home / "otlp.sock").exists():
            assert self.child.returncode is None, (self.home / "agent.log").read_text()
            await asyncio.sleep(0.05)

    async def send(self, first):
        """One request, until it is accepted."""
        now = time.time_ns()
        records = ",".join(
            f'{{"timeUnixNano":"{now}","severityNumber":9,"body":{{"stringValue":"wheel {n % 4} at {(n * 7919) % 6000} rpm"}},'
            f'"attributes":[{{"key":"number","value":{{"intValue":"{n}"}}}}]}}'
            for n in range(first, first + ITEMS)
        )
        body = (f'{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{self.name}"}}}}]}},'
                f'"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}').encode()
        while True:
            if self.writer is None:
                self.reader, self.writer = await asyncio.open_unix_connection(self.home / "otlp.sock")
            self.writer.write(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                              b"content-length: %d\r\n\r\n" % len(body) + body)
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                # It was idle for too long, and nothing was begun.
                self.writer = None
                continue
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await self.reader.readexactly(length)
            if head.startswith(b"HTTP/1.1 200"):
                self.accepted += ITEMS
                return len(body)
            await asyncio.sleep(1)


class Crowd:
    """So many satellites for so long."""

    def __init__(self, fleet, stations, size, given):
        self.fleet, self.stations, self.size, self.given = fleet, stations, size, given
        self.directory = fleet.directory / f"crowd-{size}"
        self.directory.mkdir()
        self.began = math.ceil(time.time()) + 20 + size // 5

    def passes(self, number):
        """Lines of a plan, until long after the end: a satellite whose plan has run out probes, and keeps a station that answers."""
        every, lasts = self.given.every, self.given.lasts
        first = self.began + every * number / self.size
        last = self.began + 60 * self.given.minutes + 2 * (every + lasts + DEADLINE)
        for n in range(math.ceil((last - first) / every)):
            at = first + every * n
            station = self.stations[(number + n) % len(self.stations)]
            moment = ["{}.{:03d}Z".format(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)), int(t % 1 * 1000)) for t in (at, at + lasts)]
            yield f"- {{station: {station}, start: {moment[0]}, end: {moment[1]}, rate_down: 2Mbit/s, rate_up: 64kbit/s}}\n"

    def list_satellites(self, satellites):
        """Has the stations know them."""
        for name in (*self.stations, "exporter"):
            path = self.fleet.directory / name / "etc" / "station.yaml"
            listed = "".join(f"    {satellite.name}: {{}}\n" for satellite in satellites)
            path.write_text(path.read_text().replace("  satellites:\n", f"  satellites:\n{listed}", 1))
            os.kill(self.pid(name), signal.SIGHUP)

    def pid(self, name):
        return int((self.fleet.directory / "run" / name).read_text().split()[0])

    async def run(self):
        satellites = [Satellite(self, n) for n in range(self.size)]
        self.list_satellites(satellites)
        for satellite in satellites:
            await satellite.start(self.fleet.programs / "space-agent")
        await asyncio.sleep(max(0, self.began - time.time()))
        ground = {name: Process(self.pid(name)) for name in (*self.stations, "exporter")}
        before = sum(process.seconds() for process in ground.values())
        self.peak, self.bytes, self.late = 0, 0, 0.0
        watching = asyncio.create_task(self.watch(ground))
        await asyncio.gather(*(self.load(satellite) for satellite in satellites))
        expected = {satellite.name: satellite.accepted for satellite in satellites}
        took = await self.arrives(expected)
        watching.cancel()
        cpu = sum(process.seconds() for process in ground.values()) - before
        for satellite in satellites:
            satellite.child.terminate()
        codes = [await satellite.child.wait() for satellite in satellites]
        return expected, codes, cpu, took

    async def load(self, satellite):
        """Sends at its share of the rate, evenly, until the time is over."""
        every = self.size / self.given.rate
        at, end = self.began + every * satellite.number / self.size, self.began + 60 * self.given.minutes
        # Of its own among all crowds.
        first = (self.size * 1000 + satellite.number) << 32
        while at < end:
            await asyncio.sleep(max(0, at - time.time()))
            self.late = max(self.late, time.time() - at)
            self.bytes += await satellite.send(first + satellite.accepted)
            at += every

    async def watch(self, ground):
        while True:
            self.peak = max(self.peak, sum(process.resident() for process in ground.values()))
            await asyncio.sleep(1)

    async def arrives(self, expected):
        """Seconds until the ledger has exported as much as was accepted of each."""
        began = time.monotonic()
        while True:
            account = await asyncio.to_thread(get_json, f"http://{self.fleet.address['exporter']}:8890/api/v1/accounting")
            missing = {n: (items, account.get(n, {}).get("exported", {}).get("log_records", 0)) for n, items in expected.items()}
            missing = {n: counts for n, counts in missing.items() if counts[0] != counts[1]}
            if not missing:
                return time.monotonic() - began
            wait = self.given.every + self.given.lasts + DEADLINE
            assert time.monotonic() - began < wait, f"not everything was exported: {dict(list(missing.items())[:5])}"
            await asyncio.sleep(2)


def main():
    arguments = fleets_arguments(__doc__)
    arguments.add_argument("--stations", required=True, help="their names")
    arguments.add_argument("--satellites", default="10,100,1000", help="numbers of satellites, one after the other")
    arguments.add_argument("--minutes", type=float, default=60, help="how long each of them is sent a load")
    arguments.add_argument("--rate", type=float, default=50, help=f"requests a second of {ITEMS} records, all satellites together")
    arguments.add_argument("--every", type=float, default=600, help="seconds from pass to pass")
    arguments.add_argument("--lasts", type=float, default=60, help="seconds that a pass lasts")
    given = arguments.parse_args()
    stations = given.stations.split()
    fleet = Fleet(given, stations)
    wrong, expected = [], 0
    print("satellites      items       MB  memory_mib   cpu_s   cpu_s/GB  all_after_s  late_s")
    for size in map(int, given.satellites.split(",")):
        crowd = Crowd(fleet, stations, size, given)
        accepted, codes, cpu, took = asyncio.run(crowd.run())
        items = sum(accepted.values())
        expected += items
        print(f"{size:>10} {items:>10} {crowd.bytes / 1e6:>8.1f} {crowd.peak:>11.1f} {cpu:>7.1f} "
              f"{cpu / crowd.bytes * 1e9:>10.1f} {took:>12.0f} {crowd.late:>7.1f}", flush=True)
        if crowd.peak > MEMORY:
            wrong.append(f"{size} satellites took {crowd.peak:.0f} MiB of {MEMORY}")
        if any(codes):
            wrong.append(f"{sum(map(bool, codes))} agents of {size} ended with an error")
    arrived = twice = 0
    for numbers, again in requests_in(fleet.directory / "received.jsonl"):
        arrived += len(numbers) - again
        twice += again
    print(f"accepted {expected}, at the backend {arrived}; lost {expected - arrived}, twice {twice}")
    if arrived != expected or twice:
        wrong.append("items are missing, or came twice")
    for complaint in wrong:
        print(f"failed: {complaint}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
