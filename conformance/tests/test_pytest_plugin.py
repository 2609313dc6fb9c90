"""``pytest --pyargs tokenwire_conformance``, as its users run it."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.config.argparsing import Parser

from tokenwire_conformance import pytest_plugin
from tokenwire_conformance import test_conformance as cases_as_tests

from . import hostile
from .hostile import serving

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--color=no"]


async def run(folder: Path, *arguments: str, limit_s: float = 90) -> tuple[int, str]:
    # A project with the strictest settings must not mind the plugin.
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\nasyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = function\n",
        "utf-8",
    )
    process = await asyncio.create_subprocess_exec(
        *PYTEST, *arguments, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "CI": ""},
    )  # fmt: skip
    try:
        async with asyncio.timeout(limit_s):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode()


def suite(*arguments: str) -> tuple[str, ...]:
    return ("--pyargs", "tokenwire_conformance", *arguments)


async def test_it_says_what_it_needs(tmp_path: Path) -> None:
    status, out = await run(tmp_path, *suite())
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {cases_as_tests._NEEDED}" in out
    assert "Traceback" not in out


MISTAKES = [
    (["--tokenwire-url", "http://x"], "the scheme http://"),
    (["--tokenwire-url", "ws://x", "--tokenwire-profile", "cores"], "did you mean core?"),
    (["--tokenwire-url", "ws://x", "--tokenwire-declare", "I-999"], "no Interpretation"),
    (["--tokenwire-url", "ws://x", "--tokenwire-tokens=@nowhere"], "nowhere: cannot be read"),
    (["--tokenwire-url", "ws://x", "--tokenwire-known-failures", "nowhere"], "nowhere: cannot be read"),
    (["--tokenwire-url", "ws://x", "--tokenwire-exec", "x {url}"], "exclude each other"),
    (["--tokenwire-exec", "true"], "no {url}"),
    (["--tokenwire-url", "ws://x", "--tokenwire-html", "/no-such-folder/x"], "the folder does not exist"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_told_in_one_line(arguments: list[str], words: str) -> None:
    """What a pytest of its own would tell: `test_it_says_what_it_needs` shows how a problem comes out."""
    parser = Parser(_ispytest=True)
    pytest_plugin.pytest_addoption(parser)
    options = parser.parse(arguments)
    config: Any = SimpleNamespace(
        stash=pytest.Stash(), getoption=lambda name: getattr(options, name[2:].replace("-", "_"))
    )
    given: list[list[str]] = []
    metafunc: Any = SimpleNamespace(config=config, parametrize=lambda _, cases, **__: given.append(cases))
    cases_as_tests.pytest_generate_tests(metafunc)
    assert given == [[]]
    assert words in config.stash[pytest_plugin.PROBLEM]
    assert "\n" not in config.stash[pytest_plugin.PROBLEM]
    with pytest.raises(pytest.UsageError):
        pytest_plugin.pytest_collection_modifyitems(config)


async def test_nobody_there_ends_the_run_with_3(tmp_path: Path) -> None:
    status, out = await run(tmp_path, *suite("--tokenwire-url", "ws://127.0.0.1:1", "--tokenwire-junit", "junit.xml"))
    assert status == 3
    assert "not tested: no connection to 127.0.0.1:1" in out
    assert "passed" not in out
    assert 'errors="1"' in (tmp_path / "junit.xml").read_text("utf-8")


async def test_verdicts_are_outcomes(tmp_path: Path) -> None:
    known = tmp_path / "known.txt"
    known.write_text("S-EH-01  # it knows nothing of errors\nS-MC-01  # wrong: this one passes\n", "utf-8")
    async with serving(hostile.half_server) as port:
        status, out = await run(
            tmp_path, *suite("--tokenwire-url", f"ws://127.0.0.1:{port}", "--tokenwire-known-failures", str(known),
                "--tokenwire-tokens", "A,B,C,D,E,F,G,H", "--tokenwire-json", "results.json",
            ),
            "-k", "S-MC-01 or S-MC-03 or S-EH-01 or S-EH-04 or S-EP-02 or S-EP-10", "-rA",
        )  # fmt: skip
    assert status == 1
    assert re.search(r"PASSED .*test_case\[S-MC-03\]", out)
    # Listed, and fails: as expected. Listed, and yet it passes: the line has to go.
    assert re.search(r"XFAIL .*test_case\[S-EH-01\] - known failure, .*known.txt:1", out)
    assert re.search(r"S-MC-01 passes and is a known failure: remove .*known.txt:2", out)
    # A failure has the clause, its words, what came, and the end of the wire log.
    assert "FAILED S-EH-04" in out
    assert "clause:   EH." in out
    assert "the last lines of connection 1" in out
    assert "Traceback" not in out
    assert re.search(r"SKIPPED .*wss://", out)
    # What is not strict passes, and is told at the end.
    assert re.search(r"PASSED .*test_case\[S-EP-02\]", out)
    assert "NON-STRICT S-EP-02 EP.path-exact (I-1)" in out
    assert len(json.loads((tmp_path / "results.json").read_bytes())["cases"]) == 6
    assert "written: results.json" in out
    # The short summary says what is wrong, not only which test.
    assert re.search(r"^FAILED .*test_case\[S-EH-04\] - Failed: (?!FAILED)\w+", out, re.MULTILINE)
    assert "traceback entries are hidden" not in out
    assert re.search(r"2 failed, 2 passed, 1 skipped, .*1 xfailed", out)


async def test_what_is_declared_fails(tmp_path: Path) -> None:
    async with serving(hostile.half_server) as port:
        status, out = await run(
            tmp_path,
            *suite("--tokenwire-url", f"ws://127.0.0.1:{port}", "--tokenwire-declare", "I-1"),
            "--tokenwire-tokens",
            "A,B,C,D,E,F,G,H",
            "-k",
            "S-EP-02",
        )
    assert status == 1
    assert "1 failed" in out


async def test_other_runs_do_not_notice_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n", "utf-8")
    status, out = await run(tmp_path, "-q")
    assert status == 0, out
    assert "1 passed" in out
    assert "tokenwire" not in out
