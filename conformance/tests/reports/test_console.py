"""What a person sees."""

import io
import re

import pytest
from hypothesis import given, settings

from tokenwire_conformance.known import KnownFailure, KnownFailures
from tokenwire_conformance.model import Status, Verdict, Violation
from tokenwire_conformance.reports.console import PROGRESS_INTERVAL_S, Console
from tokenwire_conformance.reports.lines import Rules, end_lines, progress_line, verdict_lines
from tokenwire_conformance.reports.text import clip, one_line, printable

from .made import CLAUSES, CONTROL, a_case, a_full_result, a_log, a_result, a_verdict, texts

RULES = Rules(CLAUSES)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def a_console(
    stream: io.StringIO, *, colour: bool | None = None, verbose: bool = False, clock: Clock | None = None
) -> Console:
    return Console(stream, colour=colour, verbose=verbose, clock=clock or Clock())


def run(stream: io.StringIO, *verdicts: Verdict, colour: bool | None = None, verbose: bool = False) -> str:
    with a_console(stream, colour=colour, verbose=verbose) as console:
        console.begin([verdict.case for verdict in verdicts], clauses=CLAUSES)
        for verdict in verdicts:
            console.started(verdict.case)
            console.finished(verdict)
        console.end(a_result(*verdicts))
    return stream.getvalue()


ONE_EACH = [a_verdict(f"S-MB-{n:02}", status, logs=(a_log(),)) for n, status in enumerate(Status, start=1)]


def test_a_failure_is_told_with_clause_expectation_and_what_came() -> None:
    lines = [line.text for line in verdict_lines(a_verdict("S-MB-04", Status.FAILED), RULES, verbose=False)]
    assert lines == [
        "FAILED        S-MB-04  Title of S-MB-04  (core, 1.2 s)",
        "    expected  numbers in order",
        "    came      3 came after 1  [connection 1]",
        '    clause    MB.sequence (MUST, verbatim, 4.2): ""MB.sequence" <quoted>"',
    ]


def test_quiet_tells_what_went_wrong_at_once_and_verbose_everything() -> None:
    heads = re.compile(r"^([A-Z-]+) +(S-MB-\d+)  ", re.MULTILINE)
    assert heads.findall(run(io.StringIO(), *ONE_EACH)) == [("NON-STRICT", "S-MB-03"), ("FAILED", "S-MB-04")]
    verbose = run(io.StringIO(), *ONE_EACH, verbose=True)
    assert [status for status, _ in heads.findall(verbose)] == [status.value for status in Status]
    assert "    sent      nothing" in verbose


def test_the_end_is_a_table_and_the_verdict() -> None:
    end = run(io.StringIO(), *ONE_EACH, a_verdict("S-MB-09", Status.SKIPPED, "no zstd", profile="limits"))
    assert end.endswith(
        "\nprofile  OK  INFORMATIONAL  NON-STRICT  FAILED  SKIPPED"
        "\ncore      1              1           1       1        1"
        "\nlimits    0              0           0       0        1"
        "\nall       1              1           1       1        2"
        "\n"
        "\nFAILED: 1 of 6 cases failed, 1 non-strict, 2 skipped (run with --html for wire logs)\n"
    )
    assert "skipped S-MB-09: no zstd\n" in end


def test_the_end_names_each_clause_once_the_failed_first() -> None:
    verdicts = [a_verdict("S-MB-01", Status.NON_STRICT), *(a_verdict(f"S-MB-{n:02}", Status.FAILED) for n in (2, 3))]
    lines = [line.text for line in end_lines(a_result(*verdicts), "")]
    assert lines[:2] == [
        "FAILED      MB.sequence  text of MB.sequence  [S-MB-02, S-MB-03]",
        "NON-STRICT  MS.silence  text of MS.silence  [S-MB-01]",
    ]


def test_quiet_leaves_out_what_fails_nothing_and_a_broken_case_is_told() -> None:
    stream = io.StringIO()
    with Console(stream, colour=None, verbose=False, quiet=True, clock=Clock()) as console:
        console.begin([], clauses=CLAUSES)
        for verdict in ONE_EACH:
            console.finished(verdict)
        console.finished(a_verdict("S-MB-09", Status.SKIPPED, "KeyError: 'x'", broken=True))
    assert "NON-STRICT" not in stream.getvalue()
    assert "FAILED        S-MB-04" in stream.getvalue()
    assert "S-MB-09" in stream.getvalue()
    result = a_result(a_verdict("S-MB-09", Status.SKIPPED, "KeyError: 'x'", broken=True))
    assert "S-MB-09 is broken, which is the suite's own fault, please report it: KeyError: 'x'" in [
        line.text for line in end_lines(result, "")
    ]


def test_one_reason_is_told_once() -> None:
    result = a_result(a_verdict("S-MB-01", Status.SKIPPED, "no zstd"), a_verdict("S-MB-02", Status.SKIPPED, "no zstd"))
    assert next(line.text for line in end_lines(result, "")) == "skipped S-MB-01, S-MB-02: no zstd"


def test_known_failures_are_told() -> None:
    listed = ["S-MB-01", "S-MB-02", "S-MB-03", "S-MB-99"]
    verdicts = [a_verdict("S-MB-01"), a_verdict("S-MB-02", Status.FAILED), a_verdict("S-MB-03", Status.SKIPPED, "why")]
    text = "\n".join(line.text for line in end_lines(a_result(*verdicts, known=listed), ""))
    assert "S-MB-01 passes and is listed as a known failure: remove known.txt:1" in text
    assert "S-MB-03 is listed as a known failure and was skipped (known.txt:3)" in text
    assert "listed as known failures and not run: S-MB-99" in text
    assert text.endswith("KNOWN FAILURE PASSES: remove S-MB-01 from known.txt, 1 known failure, 1 skipped")
    known = KnownFailures("known.txt", {"S-MB-01": KnownFailure("S-MB-01", 1)})
    stream = io.StringIO()
    console = a_console(stream)
    console.begin([a_case()], clauses=CLAUSES, known=known)
    console.finished(a_verdict())
    assert "listed as a known failure, but passes)" in stream.getvalue()
    console.finished(a_verdict(status=Status.FAILED))
    assert "1.2 s, known failure)" in stream.getvalue()


def test_a_peer_cannot_flood_the_console() -> None:
    violations = (Violation("MB.sequence", "x" * 100_000),) * 1_000
    verdict = a_verdict(status=Status.FAILED, violations=violations, notes=("n" * 100_000,) * 1_000)
    lines = [line.text for line in verdict_lines(verdict, RULES, verbose=True)]
    assert sum(map(len, lines)) < 20_000
    assert "    and 995 further violations" in lines
    assert "    and 990 further notes" in lines


@given(texts)
@settings(deadline=None, max_examples=100)
def test_nothing_of_a_peer_steers_a_terminal(text: str) -> None:
    result = a_full_result(text)
    for verdict in result.verdicts:
        assert all(line.text.isprintable() for line in verdict_lines(verdict, RULES, verbose=True))
    assert all(line.text.isprintable() for line in end_lines(result, text))


def test_a_line_of_progress_every_ten_seconds_at_most() -> None:
    stream, clock = io.StringIO(), Clock()
    console = a_console(stream, clock=clock)
    cases = [a_case(f"S-MB-{number:02}") for number in range(8)]
    console.begin(cases, clauses=CLAUSES)
    for case in cases:
        console.started(case)
        clock.now_s += 1
    assert stream.getvalue() == ""
    clock.now_s += PROGRESS_INTERVAL_S - 8
    console.finished(a_verdict("S-MB-00"))
    said = "1 of 8 cases done, 10 s, running: S-MB-01 9 s, S-MB-02 8 s, S-MB-03 7 s, S-MB-04 6 s, 3 more\n"
    assert stream.getvalue() == said
    clock.now_s += PROGRESS_INTERVAL_S - 0.1
    console.tick()
    assert stream.getvalue() == said
    clock.now_s += 0.1
    console.tick()
    assert stream.getvalue().count("\n") == 2


def test_progress_without_a_case() -> None:
    assert progress_line(0, 0, {}, 1.2) == "0 of 0 cases done, 1 s"


def test_colours_are_for_terminals_and_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in run(io.StringIO(), *ONE_EACH)
    assert "\x1b[31mFAILED  " in run(io.StringIO(), *ONE_EACH, colour=True)
    assert "\x1b[31mFAILED  " in run(Terminal(), *ONE_EACH)
    assert "\x1b" not in run(Terminal(), *ONE_EACH, colour=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run(Terminal(), *ONE_EACH)
    assert "\x1b[31m" in run(Terminal(), *ONE_EACH, colour=True)


def test_a_terminal_has_live_progress_and_gets_everything_else_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    written = run(Terminal(), *ONE_EACH)
    assert "4 of 5 cases done, 0 s" in written
    assert "    came      3 came after 1  [connection 1]\n" in written
    assert "FAILED: 1 of 5 cases failed" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert not re.search(r"\x1b\[[0-9;]*m", re.sub(r"\x1b\[0?m", "", written).replace("\x1b[2m", ""))


def test_the_terminal_is_given_back_when_the_run_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    def break_off() -> None:
        with a_console(stream) as console:
            console.begin([a_case()], clauses=CLAUSES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert "\x1b[?25h" in stream.getvalue()


def test_markup_of_rich_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    written = run(Terminal(), a_verdict("S-MB-01", Status.FAILED, "[red]x[/red] :smile: [/"), colour=False)
    assert "came      [red]x[/red] :smile: [/  [connection 1]" in written


def test_an_encoding_without_the_character_gets_an_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(stream, colour=None, verbose=False, clock=Clock())
    console.begin([a_case()], clauses=CLAUSES)
    console.finished(a_verdict(status=Status.FAILED, message="é→"))
    assert b"came      \\xe9\\u2192  [connection 1]" in raw.getvalue()


def test_a_closed_pipe_is_the_callers() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = a_console(Closed())
    console.begin([a_case()], clauses=CLAUSES)
    with pytest.raises(BrokenPipeError):
        console.finished(a_verdict(status=Status.FAILED))


def test_text_that_is_shown() -> None:
    assert printable(CONTROL) == r"\x1b[2Jgone\x00\x07\r\u202e\ud800"
    assert printable("a\nb\tc\rd é \U000e0001", keep="\n\t") == "a\nb\tc\\rd é \\U000e0001"
    assert one_line(" a\n\n b\x1b ") == r"a b\x1b"
    assert clip("abcdef", 6) == "abcdef"
    assert clip("abcdefg", 6) == "abcdef… (1 more characters)"
