#!/usr/bin/env python3
"""Writes order.ld, which has the linker put together what an agent runs when it starts and waits. Linux maps programs by pieces of
64 KiB and more, and functions that are spread over the program keep nearly all of it in memory.

    PERIGEE_UNORDERED=1 cargo rustc --release -p space-agent --bin space-agent -- -C strip=none
    space-agent/order/order.py target/release/space-agent target/release/ground-station

It needs valgrind and nm, and the ground-station for its certificates. The agent runs under callgrind, which knows every instruction that
was executed (of one section: an agent that is in order already has two). Names stand without their hashes, and where most of a module was
run its beginning stands for all of it, so that the file serves later versions too; whoever changes much runs this again and looks at the
resident memory of `bench memory`. What requests and contacts need stays where the compiler had it: put together too it was 10 % slower.
"""

import bisect
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
import time

HERE = pathlib.Path(__file__).parent
# Bytes that may be put beside what is run to save a name.
NAME = 2000
PATIENCE = 120  # seconds for each step under valgrind

AGENT = """\
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:14317"}}, http: {{endpoint: "127.0.0.1:14318"}}}}}}}}
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
  stations: {{gs: {{address: "127.0.0.1:14433"}}}}
"""


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def started(agent, configuration):
    """Waits until the agent answers."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return run(agent, "status", "--config", configuration)
        except subprocess.CalledProcessError:
            assert time.monotonic() < end, "the agent does not answer"
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


def executed(agent, out, configuration):
    """Addresses of the instructions that the agent ran, from its start to its end."""
    command = ["valgrind", "--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no",
               f"--callgrind-out-file={out}", agent, "run", "--config", configuration]
    with Process(*command):
        started(agent, configuration)
        time.sleep(20)
    addresses, ours = set(), False
    for line in out.read_text().splitlines():
        if line.startswith("ob="):
            ours = line[3:].endswith("/" + agent.name)
        elif ours and line.startswith("0x"):
            addresses.add(int(line.split(maxsplit=1)[0], 16))
    return addresses


def idle(agent, ground):
    """What an agent runs that nobody sends anything: one with a link, and one that exports itself."""
    addresses = set()
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        pki = home / "pki"
        run(ground, "pki", "init", "--domain", "example.org", "--dir", pki)
        run(ground, "pki", "issue", "satellite", "sat-1", "--dir", pki)
        for name, exporters, exporter, link in (
            ("link", "{link: {}}", "link", LINK.format(pki=pki)),
            ("direct", '{debug: {}, otlp_grpc: {endpoint: "http://127.0.0.1:14417"}}', "debug, otlp_grpc", ""),
        ):
            (home / name).mkdir()
            text = AGENT.format(home=home / name, exporters=exporters, exporter=exporter, link=link)
            (home / f"{name}.yaml").write_text(text)
            addresses |= executed(agent, home / f"{name}.out", home / f"{name}.yaml")
    return addresses


def functions(agent, addresses):
    """Of each name without its hash: its bytes, and those of it that were run."""
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
    all_bytes, ran = {}, {}

    def add(to, place):
        for name in at[place]:
            to[name] = to.get(name, 0) + place[1] / len(at[place])

    for place in places:
        add(all_bytes, place)
    for n in {bisect.bisect_right(starts, address) - 1 for address in addresses} - {-1}:
        add(ran, places[n])
    return all_bytes, ran


class Node:
    """Names with the same beginning."""

    def __init__(self):
        self.parts, self.bytes, self.ran, self.name = {}, 0, 0, None


def patterns(all_bytes, ran):
    """The beginnings of names that cover what ran with few names and few other bytes."""
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
        alone = (node.bytes + NAME, [beginning + "*"])
        cost, lines = 0, []
        if node.name in ran:
            cost, lines = all_bytes[node.name] + NAME, [beginning + ("*" if beginning.endswith("17h") else "")]
        for part, below in node.parts.items():
            more, of_it = best(below, beginning + part)
            cost, lines = cost + more, lines + of_it
        return alone if beginning and alone[0] <= cost else (cost, lines)

    return best(root, "")[1]


def main():
    agent, ground = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    all_bytes, ran = functions(agent, idle(agent, ground))
    names = patterns(all_bytes, ran)
    lines = textwrap.wrap(" ".join(f".text*.{name}" for name in names), 136, break_long_words=False, break_on_hyphens=False)
    text = ["/* Written by order.py: what an idle agent runs, together in the program. */", "SECTIONS {", "  .text.idle : { *("]
    text += [*(f"    {line}" for line in lines), "  ) }", "}", "INSERT BEFORE .text;", ""]
    (HERE / "order.ld").write_text("\n".join(text))
    print(f"{sum(ran.values()):.0f} bytes of {sum(all_bytes.values()):.0f} are run when idle; {len(names)} names")


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    main()
