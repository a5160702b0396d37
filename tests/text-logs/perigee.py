"""Writes space-agent.log and ground-station.log: an agent that takes OTLP and measures its host, and a station that exports to a backend
that fails at times, through contacts that come and go.

usage: perigee.py DIRECTORY
"""

import pathlib
import sys
import types

import capture
from capture import stack

# In orders of the load.
CONTACT, CONTACT_EVERY = 300, 400


def log_at(level, config):
    """Sets what a program logs."""
    text = config.read_text()
    assert "  telemetry:\n" in text, text
    config.write_text(text.replace("  telemetry:\n", f"  telemetry:\n    logs: {{level: {level}}}\n"))


def quick(config):
    """The agent's configuration, with small segments: each that is sealed or sent is a line in both logs."""
    text = config.read_text()
    assert "batch: {}" in text, text
    config.write_text(text.replace("batch: {}", "batch: {timeout: 20ms, send_batch_bytes: 16KiB}"))


def main():
    programs, out = stack.programs_directory(), pathlib.Path(sys.argv[1])
    with capture.directory() as directory, capture.FlakyBackend() as flaky:
        pki = stack.make_pki(programs / "ground-station", directory)
        gone = types.SimpleNamespace(otlp=stack.free_port())
        metrics = types.SimpleNamespace(base=flaky.base)
        ground = stack.Ground(directory, programs / "ground-station", pki, gone, metrics, victorialogs=flaky)
        agent = stack.Agent(directory, programs / "space-agent", pki, ground, measures_itself=True)
        # The station says little itself, and at `trace` its libraries speak too.
        log_at("trace", directory / "ground.yaml")
        log_at("debug", agent.config)
        quick(agent.config)
        with capture.running(ground, agent):
            load = capture.Load(f"http://127.0.0.1:{agent.http}")
            for n, _ in enumerate(capture.until(agent, 2_500_000, 90)):
                load.order()
                if n % CONTACT_EVERY == 0:
                    agent.command_line("contact", "open", stack.STATION)
                elif n % CONTACT_EVERY == CONTACT:
                    agent.command_line("contact", "close")
        capture.hand_over(agent, out / "space-agent.log")
        capture.hand_over(ground, out / "ground-station.log")


main()
