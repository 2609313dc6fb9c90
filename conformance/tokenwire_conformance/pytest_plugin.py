"""The pytest plugin: ``pytest --pyargs tokenwire_conformance --tokenwire-url ws://…``.

It is loaded into every pytest of everybody who has the package, so it imports nothing but pytest and only adds
options; all the rest happens in ``test_conformance``, which is collected when it is asked for.
"""

from typing import Final

import pytest

__all__ = ["PROBLEM", "SUMMARY"]

PROBLEM: Final = pytest.StashKey[str]()
"""Why the cases cannot be collected: one line."""
SUMMARY: Final = pytest.StashKey[list[str]]()
"""Lines for the end of the run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suite."""
    group = parser.getgroup("tokenwire", "conformance with Token Data WebSocket v1.0 (--pyargs tokenwire_conformance)")
    group.addoption("--tokenwire-url", metavar="URL", help="the server to test: ws:// or wss://")
    group.addoption("--tokenwire-exec", metavar="COMMAND", help="the client to test: a command with {url}")
    group.addoption("--tokenwire-tokens", metavar="A,B,…", help="tokens to use, or =@FILE with one a line")
    for name, metavar, text in (
        ("profile", "NAME", "core, timing, limits, ext.batch …, ext.* or all (default: core)"),
        ("declare", "I-18,…", "Interpretations that it claims to keep, or all"),
    ):
        group.addoption(f"--tokenwire-{name}", action="append", default=[], metavar=metavar, help=text)
    for kind, text in (("json", "for programs"), ("junit", "for a CI"), ("html", "on one page, with every wire log")):
        group.addoption(f"--tokenwire-{kind}", metavar="FILE", help=f"write the results {text}")
    group.addoption("--tokenwire-known-failures", metavar="FILE", help="cases that may fail, and must")


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """End the run with one line when the cases were asked for in a way that cannot be carried out."""
    if PROBLEM in config.stash:
        raise pytest.UsageError(config.stash[PROBLEM])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What is no failure and yet worth knowing."""
    if lines := config.stash.get(SUMMARY, None):
        terminalreporter.section("tokenwire conformance")
        for line in lines:
            terminalreporter.write_line(line)
