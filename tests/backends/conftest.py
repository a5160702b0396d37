"""Shows the logs of the real processes when a test fails, and ends the processes when the run is ended."""

import os
import signal

import pytest
from stack import Stack, programs_directory

os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

_running = []
_failed = False


def pytest_configure(config):
    # A terminated run unwinds like an interrupted one, so that the fixtures end what they started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    global _failed
    report = yield
    if report.failed:
        _failed = True
        for stack in _running:
            report.sections += [(f"{p.name}: end of {p.log}", p.tail()) for p in stack.processes]
    return report


def pytest_terminal_summary(terminalreporter):
    for stack in _running:
        if stack.directory.exists():
            terminalreporter.write_line(f"logs and data are kept in {stack.directory}")


@pytest.fixture(scope="session")
def watch():
    """Takes an object with `processes` and `directory`, whose logs are shown when a test fails."""
    return _running.append


@pytest.fixture(scope="session")
def stack():
    """Jaeger, Prometheus, ground-station and space-agent, running."""
    stack = Stack(programs_directory())
    _running.append(stack)
    try:
        stack.start()
    except BaseException:
        stack.stop()
        raise
    yield stack
    stack.stop()
    if not _failed:
        stack.remove()
