"""Takes the primary away from a fleet of deploy/fleet/fleet.sh in the middle of passes, and compares what arrived with what was accepted.

Log records with numbers are sent to an agent without a break. In each round the agent has a contact with one of the two
stations. As soon as the ledger has items of this contact, the server that leads is killed (SIGKILL) or paused (SIGSTOP); the contact
stays open. A killed server is started again once another one leads. A paused one goes on, and believes that it still leads.
"""

import argparse
import http.client
import itertools
import json
import math
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.request

STATIONS = ("svalbard", "kiruna")
FAULTS = {"kill": "start-server", "pause": "resume"}  # what makes the server whole again
DEADLINE = 120  # seconds until a condition that should hold counts as a failure
ITEMS = 20  # in a request
PAUSE = 0.02  # between requests
WRITABLE = 40  # seconds in which the ledger must take writes again, at the 95th percentile


def command(*parts):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in parts], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, f"{parts}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def get_json(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def until(what, check, pause=0.1):
    """What `check` answers as soon as that is true."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := check()):
        assert time.monotonic() < deadline, f"{what}: not so after {DEADLINE} s"
        time.sleep(pause)
    return answer


class Sender(threading.Thread):
    """Sends numbered log records until it is told to stop. `acknowledged`: those whose request was answered with 200."""

    def __init__(self, host, port, seed):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(host, port, timeout=30)
        self.random = random.Random(seed)
        self.acknowledged = []
        self.refused = 0
        self.stopping = threading.Event()

    def run(self):
        numbers = itertools.count()
        while not self.stopping.wait(PAUSE):
            batch = [next(numbers) for _ in range(ITEMS)]
            records = [
                {
                    "timeUnixNano": str(time.time_ns()),
                    "severityNumber": 9,
                    "body": {"stringValue": f"wheel {n % 4} at {self.random.random() * 6000} rpm, {self.random.randbytes(48).hex()}"},
                    "attributes": [{"key": "number", "value": {"intValue": str(n)}}],
                }
                for n in batch
            ]
            resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "adcs"}}]}
            body = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]}
            self.connection.request("POST", "/v1/logs", json.dumps(body), {"content-type": "application/json"})
            answer = self.connection.getresponse()
            answer.read()
            if answer.status == 200:
                self.acknowledged += batch
            else:
                self.refused += len(batch)


class Agent:
    """space-agent with contacts that are opened by hand. It sends nothing of its own, so that counts can be compared."""

    def __init__(self, fleet):
        home = fleet.directory / "agent"
        home.mkdir()
        pki = fleet.directory / "pki" / "link"
        command(fleet.programs / "ground-station", "pki", "issue", "satellite", "sat-1", "--dir", pki)
        self.program = fleet.programs / "space-agent"
        self.config = home / "agent.yaml"
        self.host, self.port = f"{fleet.net}.31", 4318
        stations = ", ".join(f'{name}: {{address: "{fleet.address[name]}:4433"}}' for name in STATIONS)
        self.config.write_text(f"""\
receivers: {{otlp: {{protocols: {{http: {{endpoint: "{self.host}:{self.port}"}}}}}}}}
exporters: {{link: {{}}}}
storage: {{directory: {home}/state, max_bytes: 1GiB}}
link:
  certificate_file: {pki}/satellite-sat-1.crt
  private_key_file: {pki}/satellite-sat-1.key
  station_ca_file: {pki}/station-ca.crt
  stations: {{{stations}}}
contacts: {{source: manual}}
extensions:
  health_check: {{endpoint: "{self.host}:13133"}}
  control: {{socket: {home}/agent.sock}}
service:
  pipelines: {{logs: {{receivers: [otlp], exporters: [link]}}}}
  telemetry:
    metrics: {{endpoint: "{self.host}:8888"}}
    otlp: {{enabled: false}}
""")
        with (home / "agent.log").open("wb") as log:
            self.child = subprocess.Popen([self.program, "run", "--config", self.config], stdout=log, stderr=log)
        until("the agent answers", lambda: subprocess.run(
            [self.program, "status", "--config", self.config], capture_output=True).returncode == 0)

    def say(self, *parts):
        return command(self.program, *parts, "--config", self.config)

    def wal(self):
        """What is on board, and what became of the rest."""
        return json.loads(self.say("status", "--json"))["wal"]

    def stop(self):
        self.child.terminate()
        return self.child.wait(timeout=60)


class Fleet:
    """The servers and stations that fleet.sh has started."""

    def __init__(self, given, stations):
        directory, net = given.directory, given.net
        self.directory, self.programs, self.net, self.script = directory, given.bin, net, given.fleet
        self.address = {name: f"{net}.{11 + n}" for n, name in enumerate(stations)} | {"exporter": f"{net}.21"}
        hosts = ",".join(f"{net}.{n}" for n in (1, 2, 3))
        password = (directory / "secret" / "perigee").read_text().strip()
        self.ledger = (
            f"host={hosts} user=perigee password={password} dbname=perigee connect_timeout=2 target_session_attrs=read-write "
            f"sslmode=verify-full sslrootcert={directory}/pki/ledger-ca.crt"
        )

    def account(self, station):
        """What a station says of the satellite's items."""
        return get_json(f"http://{self.address[station]}:8890/api/v1/accounting")["sat-1"]

    def writes(self):
        """Whether a row is committed, which takes a standby."""
        done = subprocess.run(
            ["psql", "-X", "-q", self.ledger, "-c", "insert into written_by_the_test default values"],
            capture_output=True, timeout=DEADLINE)
        return done.returncode == 0

    def is_whole(self):
        return command(self.script, "status").count("streaming") == 2


def one_round(fleet, agent, sender, station, fault):
    """One contact in which the primary goes. Seconds from then to the first write, and until what was accepted by then is delivered."""
    before = agent.wal()["delivered"]["logs"]
    agent.say("contact", "open", station)
    until("items of this contact are delivered", lambda: agent.wal()["delivered"]["logs"] > before)
    begun = time.monotonic()
    server = command(fleet.script, f"{fault}-primary").strip()
    until("the ledger takes writes", fleet.writes)
    writable = time.monotonic() - begun
    # What was committed just before the fault is delivered at once; this is above it.
    waiting = len(sender.acknowledged)
    until("what waited is delivered", lambda: agent.wal()["delivered"]["logs"] >= waiting)
    delivered = time.monotonic() - begun
    agent.say("contact", "close")
    command(fleet.script, FAULTS[fault], server)
    until("the server that led is a standby", fleet.is_whole, pause=0.5)
    print(f"{station:<9} {fault:<5} {server}   writable after {writable:5.1f} s   "
          f"all {waiting} items accepted by then in the ledger after {delivered:5.1f} s", flush=True)
    return writable, delivered


def requests_in(path):
    """The numbers of each request in the exporter's file, in the order of arrival, and how many of them had come before."""
    arrived = set()
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            records = [
                record
                for resource in json.loads(line).get("resourceLogs", [])
                for scope in resource["scopeLogs"]
                for record in scope["logRecords"]
            ]
            numbers = [int(a["value"]["intValue"]) for r in records for a in r.get("attributes", []) if a["key"] == "number"]
            if numbers:  # the stations' own records have none
                yield numbers, len(numbers) - len(set(numbers) - arrived)
                arrived.update(numbers)


def percentile(values, share):
    return sorted(values)[math.ceil(share * len(values)) - 1]


def fleets_arguments(description):
    """Those that say which fleet it is."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("directory", type=pathlib.Path)
    arguments.add_argument("--bin", type=pathlib.Path, required=True)
    arguments.add_argument("--net", required=True)
    arguments.add_argument("--fleet", required=True)
    return arguments


def main():
    arguments = fleets_arguments(__doc__)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--faults", default="kill", help="in turn: kill, pause or kill,pause")
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    fleet = Fleet(given, STATIONS)
    agent = Agent(fleet)
    try:
        return run(fleet, agent, given)
    finally:
        agent.stop()


def run(fleet, agent, given):
    print(f"seed {given.seed}")
    command("psql", "-X", "-q", fleet.ledger, "-c", "create table written_by_the_test (at timestamptz default now())")
    sender = Sender(agent.host, agent.port, given.seed)
    sender.start()
    try:
        faults = given.faults.split(",")
        rounds = [one_round(fleet, agent, sender, STATIONS[n % 2], faults[n % len(faults)]) for n in range(given.rounds)]
    finally:
        sender.stopping.set()
        sender.join()

    accepted = agent.wal()["accepted"]["logs"]
    agent.say("contact", "open", STATIONS[given.rounds % 2])
    until("everything is delivered", lambda: agent.wal()["delivered"]["logs"] == accepted)
    agent.say("contact", "close")
    until("everything is exported", lambda: fleet.account("kiruna")["exported"]["log_records"] == accepted)

    arrived, repeated, twice = set(), 0, 0
    for numbers, again in requests_in(fleet.directory / "received.jsonl"):
        # A request whose answer came while the ledger was away is sent once more, as it was. Nothing else comes twice.
        repeated += again == len(numbers)
        twice += again if again < len(numbers) else 0
        arrived.update(numbers)
    sent = set(sender.acknowledged)
    accounts = [fleet.account(station) for station in STATIONS]
    lost, unknown = len(sent - arrived), len(arrived - sent)
    writable, delivered = zip(*rounds)
    print(f"accepted {accepted}, refused {sender.refused}; in the ledger {accounts[0]['committed']['log_records']}, "
          f"segments {accounts[0]['segments']}, of which handed in again {accounts[0]['duplicates']}")
    print(f"at the backend: lost {lost}, twice {twice}, requests repeated whole {repeated}, never sent {unknown}; dropped on board {agent.wal()['dropped']}")
    print(f"{len(rounds)} times without the primary: writable again after {percentile(writable, 0.5):.1f} s (median), "
          f"{percentile(writable, 0.95):.1f} s (95 %), {max(writable):.1f} s (longest); "
          f"backlog in the ledger after {percentile(delivered, 0.5):.1f} s, {max(delivered):.1f} s")

    wrong = []
    if len(sent) != accepted or sender.refused:
        wrong.append(f"the sender counts {len(sent)} accepted and {sender.refused} refused items")
    if any(account["committed"]["log_records"] != accepted for account in accounts):
        wrong.append(f"the stations count {[account['committed']['log_records'] for account in accounts]} items in the ledger")
    if lost or unknown or agent.wal()["dropped"]:
        wrong.append("items are missing, or there are too many")
    if twice or repeated > len(rounds):
        wrong.append("more arrived twice than the one request that each fault left undecided")
    if percentile(writable, 0.95) > WRITABLE:
        wrong.append(f"the ledger took no writes for more than {WRITABLE} s")
    for complaint in wrong:
        print(f"failed: {complaint}")
    print(f"{len(rounds) if not wrong else 0} passed, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
