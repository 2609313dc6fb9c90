"""The course of each shape, and the command line."""

from pathlib import Path

import pytest

from loadtests.load.host import endpoint
from loadtests.load.run import parse
from loadtests.load.shapes import SHAPES, stage_at


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("users", "duration_s"), [(1000, 120.0), (1, 5.0), (200, 60.0)])
def test_every_shape_reaches_everybody_and_ends_in_time(name: str, users: int, duration_s: float) -> None:
    stages = SHAPES[name].stages(users, duration_s, 0)
    assert max(stage.users for stage in stages) == stages[-1].users == users
    ends = [stage.until_s for stage in stages]
    assert ends == sorted(ends)
    assert ends[-1] == duration_s
    assert stage_at(stages, duration_s) is None
    assert all(stage.rate >= 1 for stage in stages)
    assert stage_at(stages, 0) == stages[0]


def test_a_ramp_has_time_to_hold() -> None:
    (stage,) = SHAPES["ramp"].stages(1000, 100, 0)
    assert stage.users / stage.rate == pytest.approx(40)
    (own,) = SHAPES["ramp"].stages(1000, 100, 7)
    assert own.rate == 7


def test_a_storm_breaks_three_times() -> None:
    counts = [stage.users for stage in SHAPES["storm"].stages(1000, 100, 0)]
    assert counts == [1000, 100, 1000, 100, 1000]
    assert stage_at(SHAPES["storm"].stages(1000, 100, 0), 35) == SHAPES["storm"].stages(1000, 100, 0)[1]


def test_one_in_twenty_is_slow() -> None:
    assert SHAPES["slow"].mix == {"Subscriber": 19, "SlowConsumer": 1}


def test_the_command_line() -> None:
    options = parse(["--shape", "storm", "--users", "7"])
    assert (options.shape, options.users, options.update_interval, options.processes) == ("storm", 7, 5.0, 1)
    assert options.results.parts[-3:] == ("build", "load", "storm")
    assert parse(["--results", "x"]).results == Path("x")


@pytest.mark.parametrize(
    "words",
    [
        *("--users 0", "--users -5", "--users 1e3", "--shape square", "--users 2 --processes 3", "--processes 0"),
        *(f"--duration {value}" for value in ("nan", "inf", "0", "-1", "x")),
        *(f"--gate-ms {value}" for value in ("nan", "inf", "0", "-1")),
        *("--rate -1", "--rate nan", "--tokens 0", "--tokens 101", "--update-interval nan", "--update-interval 0"),
        *("--host ws://127.0.0.1:99999", "--host ws://127.0.0.1:99x", "--host ws://[::1", "--host ws://127.0.0.1:0"),
        *("--host wss://127.0.0.1:1", "--host ws://192.0.2.1:1", "--host 127.0.0.1:8080"),
    ],
)
def test_mistakes_end_with_one_line_that_names_them(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("load: ")
    assert words.split()[-2] in line


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ws://127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("ws://localhost:1/", ("localhost", 1)),
        ("ws://[::1]:65535", ("::1", 65_535)),
        ("ws://127.0.0.1", ("127.0.0.1", 80)),
    ],
)
def test_hosts_on_this_machine(url: str, found: tuple[str, int]) -> None:
    assert endpoint(url) == found
