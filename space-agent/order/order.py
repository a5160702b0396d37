#!/usr/bin/env python3
"""Writes order.ld, which has the linker put together what an agent runs: first what a start and an idle agent need, then what
requests and contacts need. Linux maps programs by pieces of 64 KiB and more, and functions that are spread over the program keep nearly
all of it in memory.

    PERIGEE_UNORDERED=1 cargo rustc --release -p space-agent --bin space-agent -- -C strip=none
    space-agent/order/order.py target/release/space-agent target/release/ground-station

It needs valgrind, curl and nm. The agent runs under callgrind, which knows every instruction that was executed (of
one section: an agent that is in order already has three). Names stand without
their hashes, and where most of a module was run its beginning stands for all of it, so that the file serves later versions too; whoever
changes much runs this again and looks at the resident memory of `bench memory`.
"""

import bisect
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time

HERE = pathlib.Path(__file__).parent
# Bytes that may be put beside what is run to save a name.
LINE = {"idle": 2000, "work": 6000}
PATIENCE = 120  # seconds for each step under valgrind

AGENT = """\
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{grpc}"}}, http: {{endpoint: "127.0.0.1:{http}"}}}}}}}}
exporters: {exporters}
storage: {{directory: {home}/state}}
{link}extensions: {{control: {{socket: {home}/agent.sock}}}}
service:
  pipelines:
    traces: {{receivers: [otlp], exporters: [{exporter}]}}
    metrics: {{receivers: [otlp], exporters: [{exporter}]}}
    logs: {{receivers: [otlp], exporters: [{exporter}]}}
"""
LINK = """\
link:
  certificate_file: {pki}/satellite-sat-1.crt
  private_key_file: {pki}/satellite-sat-1.key
  station_ca_file: {pki}/station-ca.crt
  stations: {{gs: {{address: "127.0.0.1:{port}"}}}}
"""
GROUND = """\
link:
  station: gs
  listen: ["127.0.0.1:{port}"]
  certificate_file: {pki}/station-gs.crt
  private_key_file: {pki}/station-gs.key
  satellite_ca_file: {pki}/satellite-ca.crt
  satellites: {{sat-1: {{}}}}
storage: {{directory: {home}/ground}}
exporters: {{debug: {{}}}}
extensions: {{control: {{socket: {home}/ground.sock}}}}
service:
  pipelines: {{traces: {{exporters: [debug]}}, metrics: {{exporters: [debug]}}, logs: {{exporters: [debug]}}}}
"""


def run(*command, **more):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **more).stdout


def eventually(what, ready):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if ready():
                return
        except (subprocess.CalledProcessError, json.JSONDecodeError, KeyError):
            pass
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.2)


class Process:
    """One that ends with the block."""

    def __init__(self, *command):
        self.child = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(PATIENCE)


def executed(agent, out, configuration, work):
    """Addresses of the instructions that the agent ran, from its start to its end."""
    command = ["valgrind", "--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no",
               f"--callgrind-out-file={out}", agent, "run", "--config", configuration]
    with Process(*command):
        eventually("the start", lambda: json.loads(run(agent, "status", "--json", "--config", configuration)))
        work()
    addresses, ours = set(), False
    for line in out.read_text().splitlines():
        if line.startswith("ob="):
            ours = line[3:].endswith("/" + agent.name)
        elif ours and line.startswith("0x"):
            addresses.add(int(line.split(maxsplit=1)[0], 16))
    return addresses


def scenes(agent, ground):
    """What an idle agent runs, and one that is at work."""
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        pki = home / "pki"
        run(ground, "pki", "init", "--domain", "example.org", "--dir", pki)
        run(ground, "pki", "issue", "satellite", "sat-1", "--dir", pki)
        run(ground, "pki", "issue", "station", "gs", "--dir", pki)
        link = LINK.format(pki=pki, port=14433)
        for name, ports, exporters, exporter, of_link in (
            ("idle", (14317, 14318), "{link: {}}", "link", link),
            ("work", (14317, 14318), "{link: {}}", "link", link),
            ("other", (14327, 14328), '{debug: {}, otlp_grpc: {endpoint: "http://127.0.0.1:14317", compression: gzip}}', "debug, otlp_grpc", ""),
        ):
            (home / name).mkdir()
            text = AGENT.format(grpc=ports[0], http=ports[1], home=home / name, exporters=exporters, exporter=exporter, link=of_link)
            (home / f"{name}.yaml").write_text(text)
        (home / "ground.yaml").write_text(GROUND.format(pki=pki, port=14433, home=home))
        idle = set()
        for name in ("idle", "other"):
            idle |= executed(agent, home / f"{name}.out", home / f"{name}.yaml", lambda: time.sleep(20))

        def work():
            send = HERE.parent.parent / "deploy" / "config" / "local" / "send.sh"
            configuration = ["--config", home / "work.yaml"]
            with Process(ground, "run", "--config", home / "ground.yaml"), Process(agent, "run", "--config", home / "other.yaml"):
                for port in (14318, 14328):
                    eventually("a request", lambda port=port: run("sh", send, f"http://127.0.0.1:{port}"))
                run(agent, "contact", "open", "gs", *configuration)

                def arrived():
                    asked = run(ground, "spool", "inspect", "--json", "--config", home / "ground.yaml")
                    return json.loads(asked)["accounting"]["sat-1"]["exported"]["spans"] > 0

                eventually("a contact", arrived)
                run(agent, "contact", "close", *configuration)
                time.sleep(5)

        return idle, executed(agent, home / "work.out", home / "work.yaml", work)


def functions(agent, *scenes):
    """Of each name without its hash: its bytes, and those of it that each scene ran."""
    symbols = []
    for line in run("nm", "-S", agent).splitlines():
        match line.split(maxsplit=3):
            case [address, size, "t" | "T" | "w" | "W", name]:
                name = re.sub(r"(17h)[0-9a-f]{16}E.*|(\.llvm\.\d+|\.\d+)$", r"\1", name)
                symbols.append((int(address, 16), int(size, 16), name))
    # Equal functions are joined, and which of their names is first differs from link to link.
    at = {}
    for address, size, name in symbols:
        at.setdefault((address, size), []).append(name)
    places = sorted(at)
    starts = [address for address, _ in places]
    all_bytes, ran = {}, [{} for _ in scenes]

    def add(to, place):
        for name in at[place]:
            to[name] = to.get(name, 0) + place[1] / len(at[place])

    for place in places:
        add(all_bytes, place)
    for scene, of in zip(scenes, ran):
        for n in {bisect.bisect_right(starts, address) - 1 for address in scene} - {-1}:
            add(of, places[n])
    return all_bytes, ran


class Node:
    """Names with the same beginning."""

    def __init__(self):
        self.parts, self.bytes, self.ran, self.name = {}, 0, 0, None


def patterns(all_bytes, ran, line):
    """The beginnings of names that cover what ran with the fewest lines and other bytes."""
    root = Node()
    for name, size in all_bytes.items():
        ends = [found.start() for found in re.finditer(r"(?<=[A-Za-z_$E.])(?=\d)|\.\.|\$(?=[A-Z]{1,2}\$)", name)]
        node, at = root, 0
        for end in [*(end for end in ends if end >= 4), len(name)]:
            node.bytes, node.ran = node.bytes + size, node.ran + ran.get(name, 0)
            node, at = node.parts.setdefault(name[at:end], Node()), end
        node.bytes, node.ran, node.name = node.bytes + size, node.ran + ran.get(name, 0), name

    def best(node, beginning):
        if node.ran == 0:
            return 0, []
        alone = (node.bytes + line, [beginning + "*"])
        cost, lines = 0, []
        if node.name in ran:
            cost, lines = all_bytes[node.name] + line, [beginning + ("*" if beginning.endswith("17h") else "")]
        for part, below in node.parts.items():
            more, of_it = best(below, beginning + part)
            cost, lines = cost + more, lines + of_it
        return alone if beginning and alone[0] <= cost else (cost, lines)

    return best(root, "")[1]


def main():
    agent, ground = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    idle, work = scenes(agent, ground)
    all_bytes, (of_idle, of_work) = functions(agent, idle, work)
    first = patterns(all_bytes, of_idle, LINE["idle"])
    then = patterns(all_bytes, {name: size for name, size in of_work.items() if name not in of_idle}, LINE["work"])
    text = ["/* Written by order.py: what an agent runs, together in the program. */", "SECTIONS {"]
    for section, lines in ((".text.idle", first), (".text.work", then)):
        names = textwrap.wrap(" ".join(f".text*.{line}" for line in lines), 136, break_long_words=False, break_on_hyphens=False)
        text += [f"  {section} : {{ *(", *(f"    {line}" for line in names), "  ) }"]
    (HERE / "order.ld").write_text("\n".join([*text, "}", "INSERT BEFORE .text;", ""]))
    print(f"{sum(of_idle.values()):.0f} bytes run when idle, {sum(of_work.values()):.0f} at work, {len(first) + len(then)} lines")


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    main()
