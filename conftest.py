"""What holds for every test of the project."""

import gc
import logging
import os
import signal
from collections.abc import Generator, Iterator
from typing import Final, TypeGuard

import pytest

# A shell that starts the tests in the background has SIGINT ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("server.tests.services.fixtures",)

_CCXT = "ccxt needs a virtualenv of its own; `make test-ccxt`, which CI runs too, has it"
ALLOWED_SKIPS: dict[str, str] = {
    f"server/tests/sources/test_ccxt_source.py::{name}": _CCXT
    for name in (
        "test_trades_of_the_long_tail_arrive",
        "test_a_cut_is_told_and_mended",
        "test_an_unknown_market_is_refused_and_the_others_go_on",
        "test_an_exchange_that_ccxt_cannot_watch_is_the_users_error",
    )
}
"""Tests that may skip in CI (CI is set), each with its reason. On a laptop any test may skip, saying why."""


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """A program that was run within a test leaves none of its log levels behind."""
    loggers = [logging.getLogger(), *(each for each in logging.root.manager.loggerDict.values() if _is_ours(each))]
    before = [(logger, logger.level) for logger in loggers]
    yield
    for logger, level in before:
        if logger.level != level:
            logger.setLevel(level)


def _is_ours(logger: object) -> TypeGuard[logging.Logger]:
    return isinstance(logger, logging.Logger) and logger.name.startswith("tokenwire")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than half of the tests' time is waiting for real sockets and processes."""
    return len(os.sched_getaffinity(0)) * 2


_LONG: Final = (
    "server/tests/stream/test_collect_kafka.py",
    "loadtests/tests/load/test_run.py",
    "loadtests/tests/test_distributed.py",
    "conformance/tests/test_kill_matrix_server.py",
    "conformance/tests/test_independent_servers.py",
    "loadtests/tests/test_simulation.py",
    "conformance/tests/test_hostile.py",
    "loadtests/tests/test_real.py",
    "server/tests/gateway/test_shared_windows.py",
    "loadtests/tests/peers/test_peers.py",
    "server/tests/services/test_engines.py",
    "server/tests/docs/test_readme.py",
    "server/tests/deploy/test_haproxy.py",
    "loadtests/tests/test_market_speed.py",
    "conformance/tests/test_pytest_plugin.py",
    "conformance/tests/test_cli.py",
    "server/tests/services/test_sharing.py",
    "server/tests/stream/test_load_processes.py",
    "server/tests/history/test_kill.py",
    "server/tests/cache/test_servers.py",
    "loadtests/tests/bench/test_run.py",
    "conformance/tests/test_kill_matrix_client.py",
    "server/tests/end_to_end/test_tape_to_wire.py",
)
"""Files of more than ten seconds, which no worker should begin last; those that wait between those that compute."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, and what takes long only in the proof (see the marker ``proof``)."""
    is_proof = os.environ.get("TOKENWIRE_PROOF") == "full"
    kept, left = [], []
    for item in items:
        marker = item.get_closest_marker("proof")
        is_asked_for = marker is not None if is_proof else marker is None or not marker.kwargs.get("only")
        (kept if is_asked_for else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
    place = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def pytest_collection_finish() -> None:
    """Thousands of collected tests need not be looked through by each later collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> Generator[None, None, None]:
    """Name the skips that fail the run in CI."""
    for report in forbidden_skips(terminalreporter):
        terminalreporter.write_line(f"skipped in CI without being allowed to: {report.nodeid}", red=True)
    return (yield)


def forbidden_skips(reporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    if not os.environ.get("CI"):
        return []
    return [report for report in reporter.stats.get("skipped", []) if report.nodeid not in ALLOWED_SKIPS]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skip that nobody allowed is a failure in CI."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and forbidden_skips(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
